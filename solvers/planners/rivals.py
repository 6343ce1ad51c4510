"""What the published rules would place with the same replicas: a search must not end below them.

Axes: L layers, G GPUs, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.objectives import replay_and_score
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.eplb import eplb_placements_without_duplicates
from craftc.solvers.problem import PlanningProblem


def better_than_craft(problem: PlanningProblem, replicas_L: tuple[int, ...], expert_LGK: np.ndarray) -> np.ndarray:
    """`expert_LGK` with CRAFT's greedy placement in the layers where that scores more."""
    load_LE, slots_L = problem.counts_SLE.sum(axis=0), [problem.experts + replicas for replicas in replicas_L]
    copies_LE = greedy_copies(load_LE, np.array(replicas_L), problem.topology.gpus)
    rival_LGK = greedy_placements(load_LE, copies_LE, layer_slots(slots_L, problem.topology), problem.topology)
    return _better(problem, expert_LGK, rival_LGK)


def better_than_eplb(problem: PlanningProblem, replicas_L: tuple[int, ...], expert_LGK: np.ndarray) -> np.ndarray:
    """`expert_LGK` with EPLB's placement in the layers where that scores more, if EPLB can do with these replicas."""
    if len(set(replicas_L)) > 1 or (problem.experts + replicas_L[0]) % problem.topology.gpus:
        return expert_LGK
    load_LE = problem.counts_SLE.sum(axis=0)
    rival_LGK = eplb_placements_without_duplicates(load_LE, replicas_L[0], problem.topology, problem.groups)
    return _better(problem, expert_LGK, rival_LGK)


def _better(problem: PlanningProblem, expert_LGK: np.ndarray, rival_LGK: np.ndarray) -> np.ndarray:
    layers = np.arange(problem.layers)
    ours_L, theirs_L = (replay_and_score(problem, layers, each)[1] for each in (expert_LGK, rival_LGK))
    best_LGK = expert_LGK.copy()
    better_L = theirs_L > ours_L
    best_LGK[better_L] = -1
    best_LGK[better_L, :, : rival_LGK.shape[2]] = rival_LGK[better_L]
    return best_LGK
