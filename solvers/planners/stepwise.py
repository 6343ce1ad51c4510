"""craftc's own planner: copies and placement searched against individual steps, for the curves too.

Axes: S steps, L layers, E experts, G GPUs, B problems (a layer and a replica count), R some of them, K slots of a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from craftc.errors import Infeasible
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.objectives import replay_and_score, slot_floor, step_weights
from craftc.solvers.placement.exact import exact_placements
from craftc.solvers.placement.node_spread import spread_over_nodes
from craftc.solvers.placement.slots import assign_slots
from craftc.solvers.planners.rivals import better_than_craft, better_than_eplb
from craftc.solvers.planners.searched_curves import replica_candidates, searched_curves
from craftc.solvers.planners.uniform import uniform_counts
from craftc.solvers.problem import (
    Allocation,
    BenefitCurves,
    EffortName,
    ObjectiveName,
    Placement,
    Planner,
    PlanningProblem,
)
from craftc.solvers.replay import placement_array, placements_of
from craftc.solvers.search.effort import EFFORTS, SKETCH, SearchEffort
from craftc.solvers.search.local_search import search_stages
from craftc.solvers.search.search_loads import Goal, squarings_for
from craftc.solvers.search.step_compression import RepresentativeSteps, compress_steps

_CLOSE, _CLOSE_ALONE = 0.02, 0.08
"""Benefit per layer by which a search of the final plan may overtake what curves say: in many layers, and in a single
one. What searches miss scatters from layer to layer, so it averages out."""
_MOST_COMPARED = 512
"""With more experts, the search comes so close to its best that curves tell what plans reach."""
_MOST_SEARCHED = 32
"""Most representative steps in a search."""
_MOST_STEPS = 256
"""Most steps, evenly spaced, on which placements are searched and curves made; reported figures cover all steps."""


@dataclass(frozen=True)
class StepwisePlanner(Planner):
    """Greedy start, local search against every step, knapsack over the resulting curves."""

    name: str = "craftc"
    effort: SearchEffort = EFFORTS["medium"]
    """How hard each placement is searched."""
    objectives = frozenset(get_args(ObjectiveName))
    weighs_steps = True
    sketches = True

    def at_effort(self, effort: EffortName) -> StepwisePlanner:
        """The same planner with that effort's stages of search."""
        return replace(self, effort=EFFORTS[effort])

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Candidates of every layer, searched like the final plan and replayed over at most 256 steps."""
        searchable = _Searchable.of(problem)

        def judge(layer_B: np.ndarray, replicas_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = searchable.search(layer_B, replicas_B, self.effort)
            return found.balancedness_B, found.score_B

        return searched_curves(problem, replica_candidates(problem), judge)

    def sketch(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """With little effort, whatever the planner's own."""
        return _Searchable.of(problem).search(layer_B, replicas_B, SKETCH).expert_BGK

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The knapsack's optimum, or a uniform count that is placed better.

        Curves are searched less than plans: where a uniform count comes close, both are placed and compared.
        """
        close = self._close(problem, curves, self.knapsack(problem, curves))
        return close[0] if len(close) == 1 else max(close, key=lambda each: self._reached(problem, each))

    def knapsack(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The largest benefit within the budget, proven unless the time limit stops the solver."""
        return solve_allocation(
            curves,
            problem.expert_bytes_L,
            problem.budget_bytes,
            solver=problem.solver,
            time_limit_s=problem.time_limit_s,
        )

    def _close(self, problem: PlanningProblem, curves: BenefitCurves, best: Allocation) -> list[Allocation]:
        """`best`, and the uniform allocations whose benefit comes close to it."""
        if problem.experts > _MOST_COMPARED:
            return [best]
        try:
            counts = uniform_counts(problem)
        except Infeasible:
            return [best]
        close, least = [best], best.objective - max(_CLOSE * problem.layers, _CLOSE_ALONE * math.sqrt(problem.layers))
        for count in filter(None, counts):
            if set(best.replicas_L) == {count}:
                continue
            benefit = sum(float(np.interp(count, curves.candidates_C, benefit_C)) for benefit_C in curves.benefit_LC)
            if benefit > least:
                close.append(replace(best, replicas_L=(count,) * problem.layers, status="feasible", objective=benefit))
        return close

    def _reached(self, problem: PlanningProblem, allocation: Allocation) -> float:
        """The score of the plan with these replicas."""
        placed = placement_array(self.place(problem, allocation.replicas_L))
        return float(replay_and_score(problem, np.arange(problem.layers), placed)[1].sum())

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """Placements as good as those of the curves or better, and than CRAFT's and EPLB's with these replicas.

        GPUs of a layer are renamed so that memory is even over all layers and copies of an expert are on many nodes.
        """
        layers = np.arange(problem.layers)
        expert_LGK = _Searchable.of(problem).search(layers, np.array(replicas_L), self.effort.final()).expert_BGK
        expert_LGK = better_than_craft(problem, replicas_L, better_than_eplb(problem, replicas_L, expert_LGK))
        slots_L = [problem.experts + replicas for replicas in replicas_L]
        slots_LG = assign_slots(slots_L, problem.expert_bytes_L, problem.topology)
        return placements_of(spread_over_nodes(_rename_gpus(expert_LGK, slots_LG), problem.topology))


@dataclass(frozen=True, eq=False)
class _Found:
    """Placements of single layers, and what they are worth."""

    expert_BGK: np.ndarray
    balancedness_B: np.ndarray
    score_B: np.ndarray


@dataclass(frozen=True, eq=False)
class _Searchable:
    """A problem as the search sees it."""

    problem: PlanningProblem
    steps: RepresentativeSteps
    goal: Goal

    @classmethod
    def of(cls, problem: PlanningProblem) -> _Searchable:
        """The problem on at most 256 of its steps, evenly spaced."""
        problem = problem.on_steps(slice(None, None, -(-len(problem.counts_SLE) // _MOST_STEPS)))
        counts_SLE, gpus = problem.counts_SLE, problem.topology.gpus
        steps = compress_steps(counts_SLE, gpus, _MOST_SEARCHED, step_weights(problem), slot_floor(problem))
        goal = Goal(problem.objective == "step-time", squarings_for(gpus))
        return cls(problem, steps, goal)

    def search(self, layer_B: np.ndarray, replicas_B: np.ndarray, effort: SearchEffort) -> _Found:
        """The placements with the best score of the search's stages, and of all placements if they are few."""
        problem, gpus = self.problem, self.problem.topology.gpus
        best, *rivals = search_stages(self.steps, layer_B, replicas_B, gpus, effort, problem.seed, self.goal)
        found = _Found(best, *replay_and_score(problem, layer_B, best))
        rivals.append(exact_placements(problem.counts_SLE, layer_B, replicas_B, best))
        for rival_BGK in rivals:
            rows = np.flatnonzero((rival_BGK != found.expert_BGK).any(axis=(1, 2)))
            balancedness_R, score_R = replay_and_score(problem, layer_B[rows], rival_BGK[rows])
            better_R = score_R > found.score_B[rows]
            better = rows[better_R]
            found.expert_BGK[better] = rival_BGK[better]
            found.balancedness_B[better], found.score_B[better] = balancedness_R[better_R], score_R[better_R]
        return found


def _rename_gpus(expert_LGK: np.ndarray, slots_LG: np.ndarray) -> np.ndarray:
    """The GPUs of every layer reordered to fit `slots_LG`; loads do not depend on the names of GPUs."""
    held_LG = (expert_LGK >= 0).sum(axis=2)
    from_LG = np.argsort(held_LG, axis=1, kind="stable")
    to_LG = np.argsort(slots_LG, axis=1, kind="stable")
    renamed_LGK = np.empty_like(expert_LGK)
    np.put_along_axis(renamed_LGK, to_LG[:, :, None], np.take_along_axis(expert_LGK, from_LG[:, :, None], 1), axis=1)
    return renamed_LGK
