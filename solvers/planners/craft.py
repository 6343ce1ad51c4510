"""CRAFT as published (Zhao et al., arXiv 2603.28768): copies and placement based on loads summed over steps.

Axes: S steps, L layers, C candidate replica counts, E experts, G GPUs, B = L x C problems, K slots of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import assign_slots, layer_slots
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import placements_of, replay_batch


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
        """The knapsack's optimum, proven unless the time limit stops it."""
        return solve_allocation(
            curves,
            problem.expert_bytes_L,
            problem.budget_bytes,
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


def doubling_candidates(experts: int, gpus: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ... up to the number of GPUs, as long as no GPU must hold an expert twice."""
    most = min(gpus, experts * (gpus - 1))
    return (0, *(2**power for power in range(most.bit_length()) if 2**power <= most))
