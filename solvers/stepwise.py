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
from craftc.solvers.step_compression import RepresentativeSteps, compress_steps
from craftc.topology import Topology

MEDIUM = SearchEffort(rounds=100, stragglers=8, partners=16, wanted=4, restarts=1)
_MOST_STEPS = 16
"""Representative steps a search looks at."""
_PEAKINESS = 8
"""Exponent of the mean over steps by which copies are first given out: a copy is worth most where a load peaks."""


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
        """`expert_BGK`: one placement per problem, never worse over the steps than CRAFT's."""
        counts_SLE, topology = problem.counts_SLE, problem.topology
        steps = compress_steps(counts_SLE, topology.gpus, _MOST_STEPS)
        slots_BG = layer_slots((problem.experts + replicas_B).tolist(), topology)
        start_BGK = _greedy(_peak_mean(steps), layer_B, replicas_B, slots_BG, topology)
        found_BGK = search_placements(steps, layer_B, start_BGK, self.effort, problem.seed)
        craft_BGK = _greedy(counts_SLE.sum(axis=0), layer_B, replicas_B, slots_BG, topology)
        found_B = replay_batch(counts_SLE, layer_B, found_BGK)
        craft_B = replay_batch(counts_SLE, layer_B, craft_BGK)
        return np.where((found_B > craft_B)[:, None, None], found_BGK, craft_BGK)


def replica_candidates(experts: int, gpus: int) -> tuple[int, ...]:
    """0 and up to twelve counts, denser where replicas buy most, up to the number of GPUs."""
    most = min(gpus, experts * (gpus - 1))
    steps = {1, 2, 3, 4} | {base * 2**power for power in range(1, most.bit_length()) for base in (2, 3)}
    return (0, *sorted(count for count in steps | {most} if 0 < count <= most))


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


def _rename_gpus(expert_LGK: np.ndarray, slots_LG: np.ndarray) -> np.ndarray:
    """Every layer's GPUs in an order that fits `slots_LG`; loads do not depend on what a GPU is called."""
    held_LG = (expert_LGK >= 0).sum(axis=2)
    from_LG = np.argsort(held_LG, axis=1, kind="stable")
    to_LG = np.argsort(slots_LG, axis=1, kind="stable")
    renamed_LGK = np.empty_like(expert_LGK)
    np.put_along_axis(renamed_LGK, to_LG[:, :, None], np.take_along_axis(expert_LGK, from_LG[:, :, None], 1), axis=1)
    return renamed_LGK
