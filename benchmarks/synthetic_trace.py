"""A synthetic trace with the size and skew of a large model: 58 layers x 256 experts x 12 workloads.

An expert's popularity is lognormal, more skewed in some layers than in others; topics move it, workloads mix topics,
and every workload has some taste of its own. So steps are alike but not equal, as recorded ones are.
The spreads were chosen so that planning on even and judging on odd steps gives EPLB about 0.81 and `reference_search`
about 0.86 with 8 replicas per GPU on 64 GPUs: near the 0.81 and 0.85 known of one recorded trace of that size.

Axes: S steps, L layers, E experts, T topics.
"""

from __future__ import annotations

import numpy as np

_SKEW = (0.2, 0.9)
"""Spread of the logarithm of popularity, least and most skewed layer."""
_TOPIC = (0.2, 0.6)
"""Spread that topics add, likewise."""
_OWN = 0.04
"""Spread that each workload adds for itself."""
_TOPICS = 3
_TOKENS = 200_000
_TOP_K = 8


def synthetic_counts(steps: int = 12, layers: int = 58, experts: int = 256, seed: int = 1) -> np.ndarray:
    """`counts_SLE` int64: tokens routed to every expert, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    mix_ST = rng.dirichlet(np.full(_TOPICS, 0.5), size=steps)
    counts_SLE = np.empty((steps, layers, experts), dtype=np.int64)
    for layer in range(layers):
        popular_E = rng.uniform(*_SKEW) * rng.normal(size=experts)
        topic_TE = np.exp(popular_E + rng.uniform(*_TOPIC) * rng.normal(size=(_TOPICS, experts)))
        share_SE = mix_ST @ (topic_TE / topic_TE.sum(axis=1, keepdims=True))
        share_SE *= np.exp(_OWN * rng.normal(size=(steps, experts)))
        share_SE /= share_SE.sum(axis=1, keepdims=True)
        counts_SLE[:, layer] = rng.multinomial(_TOKENS * _TOP_K, share_SE)
    return counts_SLE
