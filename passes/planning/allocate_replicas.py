"""Choose how many replicas every layer gets within the byte budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.passes.planning.pose_problem import planning_problem
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import DEFAULT_PLANNER, SolverName


@dataclass(frozen=True)
class AllocateReplicas(Pass):
    """The knapsack over all layers."""

    name: ClassVar[str] = "allocate_replicas"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes", "curves")
    gives: ClassVar[tuple[str, ...]] = ("allocation",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""
    solver: SolverName = "highs"
    """Solver of the integer program, where the planner has one."""
    time_limit_s: float = 30.0
    """Of that solver, above 0."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises Infeasible where the planner cannot do with the budget, naming the smallest that works."""
        assert compilation.deciding_curves is not None
        problem = replace(planning_problem(compilation), solver=self.solver, time_limit_s=self.time_limit_s)
        allocation = planner_for(self.planner, problem).allocate(problem, compilation.deciding_curves)
        return replace(compilation, allocation=allocation)
