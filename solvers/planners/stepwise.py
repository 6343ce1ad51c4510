"""craftc's own planner: copies and placement searched against individual steps, for the curves too.

Axes: S steps, L layers, C candidate replica counts, E experts, G GPUs, B = L x C problems, K slots of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.objectives import score, step_weights
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.exact import exact_placements
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.node_spread import spread_over_nodes
from craftc.solvers.placement.slots import assign_slots, layer_slots
from craftc.solvers.planners.eplb import eplb_placements_without_duplicates
from craftc.solvers.problem import (
    Allocation,
    BenefitCurves,
    EffortName,
    ObjectiveName,
    Placement,
    Planner,
    PlanningProblem,
)
from craftc.solvers.replay import placements_of, replay_steps
from craftc.solvers.search.effort import EFFORTS, SearchEffort
from craftc.solvers.search.local_search import search_stages
from craftc.solvers.search.step_compression import RepresentativeSteps, compress_steps
from craftc.topology import Topology

_MOST_STEPS = 16
"""Most representative steps in a search."""
_MOST_JUDGED = 256
"""Most steps, evenly spaced, on which the best of several placements is chosen; reported figures cover all steps."""
_PEAKINESS = 4
"""Exponent of the mean over steps by which copies are first handed out: a copy is worth most where a load peaks."""


@dataclass(frozen=True)
class StepwisePlanner(Planner):
    """Greedy start, local search against every step, knapsack over the resulting curves."""

    name: str = "craftc"
    effort: SearchEffort = EFFORTS["medium"]
    """How hard each placement is searched."""
    objectives = frozenset(get_args(ObjectiveName))
    weighs_steps = True

    def at_effort(self, effort: EffortName) -> StepwisePlanner:
        """The same planner with that effort's stages of search."""
        return replace(self, effort=EFFORTS[effort])

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Every candidate of every layer, searched like the final plan and replayed over all steps."""
        candidates = replica_candidates(problem.experts, problem.topology.gpus, self.effort.all_counts)
        layer_B = np.repeat(np.arange(problem.layers), len(candidates))
        expert_BGK = _search(problem, layer_B, np.tile(candidates, problem.layers), self.effort)
        balancedness_SB = replay_steps(problem.counts_SLE, layer_B, expert_BGK)
        shape = (problem.layers, len(candidates))
        balancedness_LC = balancedness_SB.mean(axis=0).reshape(shape)
        return BenefitCurves(candidates, balancedness_LC, score(problem, balancedness_SB, layer_B).reshape(shape))

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The knapsack's optimum, proven unless the time limit stops it."""
        return solve_allocation(
            curves,
            problem.expert_bytes_L,
            problem.budget_bytes,
            solver=problem.solver,
            time_limit_s=problem.time_limit_s,
        )

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """Placements as good as those of the curves or better.

        GPUs of a layer are renamed so that memory is even over all layers and copies of an expert are on many nodes.
        """
        layers = np.arange(problem.layers)
        expert_LGK = _search(problem, layers, np.array(replicas_L), self.effort.final())
        slots_L = [problem.experts + replicas for replicas in replicas_L]
        slots_LG = assign_slots(slots_L, problem.expert_bytes_L, problem.topology)
        return placements_of(spread_over_nodes(_rename_gpus(expert_LGK, slots_LG), problem.topology))


def replica_candidates(experts: int, gpus: int, all_counts: bool = False) -> tuple[int, ...]:
    """0, the powers of two, and one count between two of them where replicas still buy most, up to the number of GPUs;
    with `all_counts` one between every two of them."""
    most = min(gpus, experts * (gpus - 1))
    powers = [2**power for power in range(most.bit_length())]
    between = [3 * power // 4 for power in powers if power >= 4] if all_counts else [3 * gpus // 16]
    return (0, *sorted({count for count in (*powers, *between, most) if 0 < count <= most}))


def _search(problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray, effort: SearchEffort) -> np.ndarray:
    """`expert_BGK` with the best score of the search's stages, CRAFT's, EPLB's, and all placements if few enough."""
    counts_SLE, topology = problem.counts_SLE, problem.topology
    judged = problem.on_steps(slice(None, None, -(-len(counts_SLE) // _MOST_JUDGED)))
    steps = compress_steps(counts_SLE, topology.gpus, _MOST_STEPS, step_weights(problem))
    slots_BG = layer_slots((problem.experts + replicas_B).tolist(), topology)
    best_BGK = _greedy(counts_SLE.sum(axis=0), layer_B, replicas_B, slots_BG, topology)
    best_B = _score(judged, layer_B, best_BGK)
    start_BGK = _greedy(_peak_mean(steps), layer_B, replicas_B, slots_BG, topology)
    found = search_stages(steps, layer_B, start_BGK, effort, problem.seed)
    found.append(_with_eplb(problem, layer_B, replicas_B, best_BGK))
    found.append(exact_placements(judged.counts_SLE, layer_B, replicas_B, best_BGK))
    for found_BGK in found:
        found_B = _score(judged, layer_B, found_BGK)
        best_BGK = np.where((found_B > best_B)[:, None, None], found_BGK, best_BGK)
        best_B = np.maximum(found_B, best_B)
    return best_BGK


def _score(problem: PlanningProblem, layer_B: np.ndarray, expert_BGK: np.ndarray) -> np.ndarray:
    return score(problem, replay_steps(problem.counts_SLE, layer_B, expert_BGK), layer_B)


def _peak_mean(steps: RepresentativeSteps) -> np.ndarray:
    """`load_LE`: power mean of the loads over steps."""
    weighted_LKE = steps.load_LKE.astype(np.float64) ** _PEAKINESS * steps.weight_LK[:, :, None]
    return weighted_LKE.sum(axis=1) ** (1 / _PEAKINESS)


def _greedy(
    load_LE: np.ndarray, layer_B: np.ndarray, replicas_B: np.ndarray, slots_BG: np.ndarray, topology: Topology
) -> np.ndarray:
    """`expert_BGK`: greedy copies, greedy placement."""
    load_BE = load_LE[layer_B]
    copies_BE = greedy_copies(load_BE, replicas_B, topology.gpus)
    return greedy_placements(load_BE, copies_BE, slots_BG, topology)


def _with_eplb(
    problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray, expert_BGK: np.ndarray
) -> np.ndarray:
    """`expert_BGK` with EPLB's placements at the counts that EPLB can do."""
    placed_BGK = expert_BGK.copy()
    possible_B = (problem.experts + replicas_B) % problem.topology.gpus == 0
    for replicas in np.unique(replicas_B[possible_B]).tolist():
        rows = np.flatnonzero(replicas_B == replicas)
        load_RE = problem.counts_SLE.sum(axis=0)[layer_B[rows]]
        placed_RGK = eplb_placements_without_duplicates(load_RE, replicas, problem.topology)
        placed_BGK[rows, :, : placed_RGK.shape[2]] = placed_RGK
    return placed_BGK


def _rename_gpus(expert_LGK: np.ndarray, slots_LG: np.ndarray) -> np.ndarray:
    """The GPUs of every layer reordered to fit `slots_LG`; loads do not depend on the names of GPUs."""
    held_LG = (expert_LGK >= 0).sum(axis=2)
    from_LG = np.argsort(held_LG, axis=1, kind="stable")
    to_LG = np.argsort(slots_LG, axis=1, kind="stable")
    renamed_LGK = np.empty_like(expert_LGK)
    np.put_along_axis(renamed_LGK, to_LG[:, :, None], np.take_along_axis(expert_LGK, from_LG[:, :, None], 1), axis=1)
    return renamed_LGK
