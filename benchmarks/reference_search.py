"""A plain search to measure craftc's planner against: greedy start, then one move at a time on the worst straggler.

Repeatedly, on the GPU that is most often the straggler, the swap of two copies, or the exchange of one replica for
another expert's, that most raises balancedness averaged over steps; where none does, the second and third most frequent
straggler are tried.

Axes: S steps, E experts, G GPUs, M moves, C candidate replica counts, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.craft import doubling_candidates
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import gpu_loads, step_balancedness
from craftc.topology import Topology

_LEAST_GAIN = 1e-9
_STRAGGLERS = 3


@dataclass(frozen=True, eq=False)
class ReferencePlanner(Planner):
    """Places by looking up what was searched; memory is even within a layer only, which costs no balancedness."""

    curves: BenefitCurves
    """On the steps planned for."""
    placement_LC: tuple[tuple[Placement, ...], ...]
    """By layer, then by candidate."""
    name: str = "reference"

    @classmethod
    def search(cls, problem: PlanningProblem) -> ReferencePlanner:
        """Search every layer at CRAFT's candidate counts."""
        candidates_C = doubling_candidates(problem.experts, problem.topology.gpus)
        counts_LSE = problem.counts_SLE.astype(np.float64).transpose(1, 0, 2)
        placement_LC = tuple(
            tuple(reference_placement(counts_SE, replicas, problem.topology) for replicas in candidates_C)
            for counts_SE in counts_LSE
        )
        balancedness_LC = [
            [step_balancedness(gpu_loads(counts_SE, placement)).mean() for placement in placement_C]
            for counts_SE, placement_C in zip(counts_LSE, placement_LC, strict=True)
        ]
        return cls(BenefitCurves(candidates_C, np.array(balancedness_LC)), placement_LC)

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """The curves of the problem that was searched."""
        return self.curves

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The knapsack over layers."""
        return solve_allocation(curves, problem.expert_bytes_L, problem.budget_bytes)

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """The placements found for these counts, which are candidates."""
        columns = [self.curves.candidates_C.index(replicas) for replicas in replicas_L]
        return tuple(placement_C[column] for placement_C, column in zip(self.placement_LC, columns, strict=True))


def reference_placement(counts_SE: np.ndarray, replicas: int, topology: Topology) -> Placement:
    """One layer's placement with `replicas` replicas; counts_SE: tokens `[S, E]`."""
    holds_EG = _greedy_start(counts_SE, replicas, topology)
    while (better_EG := _improved(counts_SE, holds_EG)) is not None:
        holds_EG = better_EG
    return tuple(tuple(np.flatnonzero(held_E).tolist()) for held_E in holds_EG.T)


def _greedy_start(counts_SE: np.ndarray, replicas: int, topology: Topology) -> np.ndarray:
    load_E = counts_SE.sum(axis=0)
    copies_E = greedy_copies(load_E[None], np.array([replicas]), topology.gpus)[0]
    slots_G = layer_slots([len(load_E) + replicas], topology)[0]
    holds_EG = np.zeros((len(load_E), topology.gpus), dtype=bool)
    for gpu, expert_K in enumerate(greedy_placements(load_E[None], copies_E[None], slots_G[None], topology)[0]):
        holds_EG[expert_K[expert_K >= 0], gpu] = True
    return holds_EG


def _improved(counts_SE: np.ndarray, holds_EG: np.ndarray) -> np.ndarray | None:
    """`holds_EG` after the best move of the most frequent straggler that has one that helps; None if none has."""
    load_SG = _loads(counts_SE, holds_EG)
    value = step_balancedness(load_SG).mean() + _LEAST_GAIN
    straggles_G = np.bincount(load_SG.argmax(axis=1), minlength=holds_EG.shape[1])
    stragglers = np.argsort(-straggles_G, kind="stable")[: min(_STRAGGLERS, np.count_nonzero(straggles_G))]
    for straggler in stragglers.tolist():
        swap_value, swapped_EG = _best_swap(counts_SE, holds_EG, load_SG, straggler)
        exchange_value, exchanged_EG = _best_exchange(counts_SE, holds_EG, load_SG, straggler)
        if max(swap_value, exchange_value) > value:
            return swapped_EG if swap_value >= exchange_value else exchanged_EG
    return None


def _best_swap(
    counts_SE: np.ndarray, holds_EG: np.ndarray, load_SG: np.ndarray, straggler: int
) -> tuple[float, np.ndarray]:
    """A copy of the straggler against one of another GPU."""
    mine_X = np.flatnonzero(holds_EG[:, straggler])
    theirs_N, gpu_N = np.nonzero(holds_EG)
    allowed_XN = ~holds_EG[theirs_N, straggler] & ~holds_EG[mine_X][:, gpu_N]
    mine_M, theirs_M = mine_X[np.nonzero(allowed_XN)[0]], theirs_N[np.nonzero(allowed_XN)[1]]
    gpu_M = gpu_N[np.nonzero(allowed_XN)[1]]
    if not mine_M.size:
        return 0.0, holds_EG
    weight_SE = counts_SE / holds_EG.sum(axis=1)
    shift_SM = weight_SE[:, theirs_M] - weight_SE[:, mine_M]
    peak_SM = np.maximum(load_SG[:, [straggler]] + shift_SM, load_SG[:, gpu_M] - shift_SM)
    peak_SM = np.maximum(peak_SM, _peak_of_others(load_SG, straggler)[:, gpu_M])
    value, best = _best(load_SG, peak_SM)
    swapped_EG = holds_EG.copy()
    swapped_EG[[mine_M[best], theirs_M[best]], straggler] = False, True
    swapped_EG[[mine_M[best], theirs_M[best]], gpu_M[best]] = True, False
    return value, swapped_EG


def _best_exchange(
    counts_SE: np.ndarray, holds_EG: np.ndarray, load_SG: np.ndarray, straggler: int
) -> tuple[float, np.ndarray]:
    """A replica anywhere gives its slot to an expert of the straggler, or one on the straggler to any expert."""
    copies_E = holds_EG.sum(axis=1)
    dropped_N, gpu_N = np.nonzero(holds_EG & (copies_E > 1)[:, None])
    helps_NE = holds_EG[:, straggler][None] | (gpu_N == straggler)[:, None]
    row_M, added_M = np.nonzero(helps_NE & ~holds_EG[:, gpu_N].T)
    dropped_M, gpu_M = dropped_N[row_M], gpu_N[row_M]
    if not row_M.size:
        return 0.0, holds_EG
    before_SE = counts_SE / copies_E
    fewer_SE = counts_SE / np.maximum(copies_E - 1, 1)
    more_SE = counts_SE / (copies_E + 1)
    dropped_SEG = (fewer_SE - before_SE)[:, :, None] * holds_EG
    added_SEG = (more_SE - before_SE)[:, :, None] * holds_EG
    load_SMG = load_SG[:, None] + dropped_SEG[:, dropped_M] + added_SEG[:, added_M]
    load_SMG[:, np.arange(len(row_M)), gpu_M] += more_SE[:, added_M] - fewer_SE[:, dropped_M]
    value, best = _best(load_SG, load_SMG.max(axis=2))
    exchanged_EG = holds_EG.copy()
    exchanged_EG[[dropped_M[best], added_M[best]], gpu_M[best]] = False, True
    return value, exchanged_EG


def _loads(counts_SE: np.ndarray, holds_EG: np.ndarray) -> np.ndarray:
    return counts_SE @ (holds_EG / holds_EG.sum(axis=1, keepdims=True))


def _peak_of_others(load_SG: np.ndarray, straggler: int) -> np.ndarray:
    """`peak_SG`: the largest load of GPUs other than the straggler and the one asked for; -inf where none is."""
    others_SG = load_SG.copy()
    others_SG[:, straggler] = -np.inf
    top_S = others_SG.argmax(axis=1)
    steps = np.arange(len(load_SG))
    peak_SG = np.repeat(others_SG[steps, top_S][:, None], load_SG.shape[1], axis=1)
    others_SG[steps, top_S] = -np.inf
    peak_SG[steps, top_S] = others_SG.max(axis=1)
    return peak_SG


def _best(load_SG: np.ndarray, peak_SM: np.ndarray) -> tuple[float, int]:
    """Balancedness of the best move, and which it is."""
    mean_S1 = load_SG.mean(axis=1, keepdims=True)
    value_M = np.divide(mean_S1, peak_SM, out=np.ones_like(peak_SM), where=peak_SM > 0).mean(axis=0)
    return float(value_M.max()), int(value_M.argmax())
