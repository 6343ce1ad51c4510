"""Experts in order, no replicas: what expert parallelism does without a balancer.

Axes: G GPUs.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.placement.slots import assign_slots
from craftc.solvers.problem import Placement, PlanningProblem


def contiguous_placement(slots_G: np.ndarray) -> Placement:
    """GPU 0 holds the first experts, GPU 1 the next, and so on; there are as many experts as slots."""
    ends_G = np.cumsum(slots_G)
    return tuple(
        tuple(range(int(end - slots), int(end))) for slots, end in zip(slots_G.tolist(), ends_G.tolist(), strict=True)
    )


def contiguous_placements(problem: PlanningProblem) -> tuple[Placement, ...]:
    """Experts in order in every layer, no replicas."""
    slots_LG = assign_slots(problem.experts_L, problem.expert_bytes_L, problem.topology)
    return tuple(contiguous_placement(slots_G) for slots_G in slots_LG)
