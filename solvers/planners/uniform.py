"""Any planner for servers that need one slot count for all layers, a multiple of the GPUs.

Axes: S steps, L layers, C candidate replica counts, E experts, G GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.errors import Infeasible
from craftc.solvers.problem import Allocation, BenefitCurves, EffortName, Placement, Planner, PlanningProblem
from craftc.solvers.replay import replay

UNIFORM = "-uniform"
"""Suffix of a planner's name: the same number of replicas in every layer."""
_MOST_CANDIDATES = 8
"""Most uniform counts that are planned and compared; if more fit, they are spread evenly, including the largest."""


@dataclass(frozen=True)
class UniformPlanner(Planner):
    """`inner` with the same number of replicas in every layer, such that slots divide evenly over GPUs."""

    inner: Planner
    """Chooses copies and places them."""

    @property
    def name(self) -> str:
        return f"{self.inner.name}{UNIFORM}"

    @property
    def keeps_groups(self) -> bool:
        return self.inner.keeps_groups

    @property
    def per_layer(self) -> bool:
        return False

    @property
    def sketches(self) -> bool:
        return self.inner.sketches

    def sketch(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """Those of `inner`."""
        return self.inner.sketch(problem, layer_B, replicas_B)

    def at_effort(self, effort: EffortName) -> UniformPlanner:
        """The same planner with `inner` at that effort."""
        return UniformPlanner(self.inner.at_effort(effort))

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """No replicas and every uniform count within the budget, planned like the final plan and replayed."""
        candidates = (0, *(count for count in uniform_counts(problem) if count))
        balancedness_CL = [
            replay(problem.counts_SLE, self.inner.place(problem, (count,) * problem.layers)).mean(axis=0)
            for count in candidates
        ]
        return BenefitCurves(candidates, np.stack(balancedness_CL, axis=1))

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The uniform count with the largest benefit, the smallest among equals. Raises Infeasible if none fits."""
        counts = uniform_counts(problem)
        benefit_C = [float(curves.benefit_LC[:, curves.candidates_C.index(count)].sum()) for count in counts]
        best = int(np.argmax(benefit_C))
        return Allocation(
            replicas_L=(counts[best],) * problem.layers,
            status="optimal",
            objective=benefit_C[best],
            bound=benefit_C[best],
            solver=f"best of {len(counts)} uniform counts",
            seconds=0.0,
        )

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """The inner planner's placement."""
        return self.inner.place(problem, replicas_L)


def uniform_counts(problem: PlanningProblem) -> tuple[int, ...]:
    """Replicas per layer that fit the budget and make slots a multiple of the GPUs, ascending, at most 8.

    Raises Infeasible if none fits.
    """
    gpus, bytes_of_one = problem.topology.gpus, sum(problem.expert_bytes_L)
    least = -problem.experts % gpus
    most = min(problem.budget_bytes // bytes_of_one, problem.experts * (gpus - 1))
    if most < least:
        raise Infeasible(
            f"uniform plan: {problem.experts} experts on {gpus} GPUs need {least} replicas in every layer to fill "
            f"equal slots, {least * bytes_of_one} bytes; the budget is {problem.budget_bytes} bytes: "
            f"give {least * bytes_of_one}B or more"
        )
    counts = range(least, most + 1, gpus)
    if len(counts) <= _MOST_CANDIDATES:
        return tuple(counts)
    chosen = np.unique(np.linspace(0, len(counts) - 1, _MOST_CANDIDATES).round().astype(int))
    return tuple(counts[int(number)] for number in chosen)
