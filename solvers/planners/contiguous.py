"""Experts in order, no replicas: what expert parallelism does without a balancer.

Axes: G GPUs.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.problem import Placement


def contiguous_placement(slots_G: np.ndarray) -> Placement:
    """GPU 0 holds the first experts, GPU 1 the next; as many experts as there are slots."""
    ends_G = np.cumsum(slots_G)
    return tuple(
        tuple(range(int(end - slots), int(end))) for slots, end in zip(slots_G.tolist(), ends_G.tolist(), strict=True)
    )
