"""Loads whose steps have one of several popularities of experts, as prefill and decode have.

Axes: S steps, L layers, E experts, P phases.
"""

import numpy as np


def loads_in_phases(phase_S, layers=4, experts=32, seed=0, spread=0.1, tokens=(500, 60, 200)):
    """`counts_SLE`: every phase has popular experts of its own, and its own number of tokens per expert."""
    rng = np.random.default_rng(seed)
    phase_S = np.array(phase_S)
    popularity_PLE = rng.lognormal(0, 1, (phase_S.max() + 1, layers, experts))
    load_SLE = popularity_PLE[phase_S] * rng.lognormal(0, spread, (len(phase_S), layers, experts))
    return rng.poisson(load_SLE * np.array(tokens)[phase_S, None, None])


def loads_of_topics(steps=32, layers=8, experts=32, topics=12, seed=0):
    """One cloud that is wide: every step is its own mixture of topics."""
    rng = np.random.default_rng(seed)
    popularity_LE = rng.lognormal(0, 1, (layers, experts))
    topic_TLE = popularity_LE * rng.lognormal(0, 0.5, (topics, layers, experts))
    mixture_ST = rng.dirichlet(np.full(topics, 0.3), steps)
    return rng.poisson(50 * np.einsum("st,tle->sle", mixture_ST, topic_TLE))
