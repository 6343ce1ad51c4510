"""CRAFT as published (Zhao et al., arXiv 2603.28768): copies and placement based on loads summed over steps.

Axes: S steps, L layers, C candidate replica counts, E experts, G GPUs, B = L x C problems, K slots of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import assign_slots, layer_slots
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import placements_of, replay_batch

_MOST_UNITS = 100_000
"""Larger budgets, in units of the sizes' greatest common divisor, are spent as far as that pays: see `most_bytes`."""


@dataclass(frozen=True)
class CraftPlanner(Planner):
    """Benefit curves at doubling replica counts, a knapsack over layers, greedy copies and placement."""

    name: str = "craft"

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Every candidate of every layer, with copies, placed on its own and replayed over all steps."""
        candidates = doubling_candidates(problem.experts, problem.topology.gpus)
        layer_B = np.repeat(np.arange(problem.layers), len(candidates))
        replicas_B = np.tile(candidates, problem.layers)
        load_BE = problem.counts_SLE.sum(axis=0)[layer_B]
        copies_BE = greedy_copies(load_BE, replicas_B, problem.topology.gpus)
        slots_BG = layer_slots((problem.experts + replicas_B).tolist(), problem.topology)
        expert_BGK = greedy_placements(load_BE, copies_BE, slots_BG, problem.topology)
        balancedness_B = replay_batch(problem.counts_SLE, layer_B, expert_BGK)
        return BenefitCurves(candidates, balancedness_B.reshape(problem.layers, len(candidates)))

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The knapsack's optimum, proven unless the time limit stops it; as in the paper, the whole budget is spent.

        Of a budget that the candidates cannot make up, the most that they can; see `most_bytes`.
        """
        return solve_allocation(
            curves,
            problem.expert_bytes_L,
            problem.budget_bytes,
            least_bytes=most_bytes(curves.candidates_C, problem.expert_bytes_L, problem.budget_bytes),
            solver=problem.solver,
            time_limit_s=problem.time_limit_s,
        )

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """Greedy placement into slots that keep memory even over all layers."""
        load_LE = problem.counts_SLE.sum(axis=0)
        copies_LE = greedy_copies(load_LE, np.array(replicas_L), problem.topology.gpus)
        slots_L = [problem.experts + replicas for replicas in replicas_L]
        slots_LG = assign_slots(slots_L, problem.expert_bytes_L, problem.topology)
        return placements_of(greedy_placements(load_LE, copies_LE, slots_LG, problem.topology))


def most_bytes(candidates_C: Sequence[int], expert_bytes_L: Sequence[int], budget_bytes: int) -> int:
    """The most bytes within the budget that one candidate per layer can take; 0 if there are too many sums to look at.

    Bit n of a number stands for a sum of n units, the greatest common divisor of the sizes.
    """
    unit = math.gcd(*expert_bytes_L)
    units = min(budget_bytes, candidates_C[-1] * sum(expert_bytes_L)) // unit
    if units > _MOST_UNITS:
        return 0
    kept, sums = (1 << (units + 1)) - 1, 1
    for size in expert_bytes_L:
        before, sums = sums, 0
        for count in candidates_C:
            if count * size // unit <= units:
                sums |= before << (count * size // unit)
        sums &= kept
    return (sums.bit_length() - 1) * unit


def doubling_candidates(experts: int, gpus: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ... up to the number of GPUs, as long as no GPU must hold an expert twice."""
    most = min(gpus, experts * (gpus - 1))
    return (0, *(2**power for power in range(most.bit_length()) if 2**power <= most))
