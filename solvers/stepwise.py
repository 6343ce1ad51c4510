"""craftc's own planner: copies and placement searched against the individual steps, curves included.

Axes: S steps, L layers, C candidate replica counts, E experts, G GPUs, B = L x C problems, K slots of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.integer_program import solve_allocation
from craftc.solvers.local_search import SearchEffort, search_placements
from craftc.solvers.placement import greedy_placements
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, PlanningProblem
from craftc.solvers.replay import placements_of, replay_batch
from craftc.solvers.replication import greedy_copies
from craftc.solvers.slots import assign_slots, layer_slots

_RISK = 2.0
"""Weight of the variance of an expert's load over steps; found by cross-validation on several kinds of loads."""


MEDIUM = SearchEffort(rounds=100, stragglers=8, partners=16, wanted=4)


@dataclass(frozen=True)
class StepwisePlanner:
    """Greedy start, local search against every step, knapsack over the resulting curves."""

    name: str = "craftc"
    effort: SearchEffort = MEDIUM
    """How hard each placement is searched."""

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Every candidate of every layer searched as the final plan will be, and replayed over all steps."""
        candidates = replica_candidates(problem.experts, problem.topology.gpus)
        layer_B = np.repeat(np.arange(problem.layers), len(candidates))
        expert_BGK = self._search(problem, layer_B, np.tile(candidates, problem.layers))
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
        """The placements the curves were made with, GPUs of a layer renamed so that memory is even over all layers."""
        expert_LGK = self._search(problem, np.arange(problem.layers), np.array(replicas_L))
        slots_L = [problem.experts + replicas for replicas in replicas_L]
        slots_LG = assign_slots(slots_L, problem.expert_bytes_L, problem.topology)
        return placements_of(_rename_gpus(expert_LGK, slots_LG))

    def _search(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """`expert_BGK`: one placement per problem, never worse over the steps than the greedy one."""
        counts_SLE, topology = problem.counts_SLE, problem.topology
        load_BE = counts_SLE.sum(axis=0)[layer_B]
        copies_BE = greedy_copies(load_BE, replicas_B, topology.gpus)
        slots_BG = layer_slots((problem.experts + replicas_B).tolist(), topology)
        start_BGK = greedy_placements(load_BE, copies_BE, slots_BG, topology)
        load_LSE = _gpu_shares(counts_SLE, topology.gpus)
        found_BGK = search_placements(load_LSE, _RISK * load_LSE.var(axis=1), layer_B, start_BGK, self.effort)
        start_B = replay_batch(counts_SLE, layer_B, start_BGK)
        found_B = replay_batch(counts_SLE, layer_B, found_BGK)
        return np.where((found_B > start_B)[:, None, None], found_BGK, start_BGK)


def replica_candidates(experts: int, gpus: int) -> tuple[int, ...]:
    """0 and up to twelve counts, denser where replicas buy most, up to the number of GPUs."""
    most = min(gpus, experts * (gpus - 1))
    steps = {1, 2, 3, 4} | {base * 2**power for power in range(1, most.bit_length()) for base in (2, 3)}
    return (0, *sorted(count for count in steps | {most} if 0 < count <= most))


def _gpu_shares(counts_SLE: np.ndarray, gpus: int) -> np.ndarray:
    """`load_LSE`: loads in units of the mean GPU load of their step and layer, 0 where nothing was routed."""
    total_SL1 = counts_SLE.sum(axis=2, keepdims=True, dtype=np.float64)
    return (counts_SLE * (gpus / np.maximum(total_SL1, 1))).transpose(1, 0, 2)


def _rename_gpus(expert_LGK: np.ndarray, slots_LG: np.ndarray) -> np.ndarray:
    """Every layer's GPUs in an order that fits `slots_LG`; loads do not depend on what a GPU is called."""
    held_LG = (expert_LGK >= 0).sum(axis=2)
    from_LG = np.argsort(held_LG, axis=1, kind="stable")
    to_LG = np.argsort(slots_LG, axis=1, kind="stable")
    renamed_LGK = np.empty_like(expert_LGK)
    np.put_along_axis(renamed_LGK, to_LG[:, :, None], np.take_along_axis(expert_LGK, from_LG[:, :, None], 1), axis=1)
    return renamed_LGK
