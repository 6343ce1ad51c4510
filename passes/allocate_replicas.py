"""Choose how many replicas every layer gets within the byte budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Compilation, Pass
from craftc.passes.planning_problem import planning_problem
from craftc.solvers.planners import DEFAULT_PLANNER, planner_named


@dataclass(frozen=True)
class AllocateReplicas(Pass):
    """The knapsack over all layers."""

    name: ClassVar[str] = "allocate_replicas"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes", "curves")
    gives: ClassVar[tuple[str, ...]] = ("allocation",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises Infeasible where the planner cannot do with the budget, naming the smallest that works."""
        assert compilation.curves is not None
        allocation = planner_named(self.planner).allocate(planning_problem(compilation), compilation.curves)
        return replace(compilation, allocation=allocation)
