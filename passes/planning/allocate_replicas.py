"""Choose how many replicas each layer gets within the budget in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.planners.registry import planner_for


@dataclass(frozen=True)
class AllocateReplicas(Pass):
    """The knapsack over all layers."""

    name: ClassVar[str] = "allocate_replicas"
    needs: ClassVar[tuple[str, ...]] = ("request", "problem", "curves")
    gives: ClassVar[tuple[str, ...]] = ("allocation",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises Infeasible if the planner cannot do with the budget, naming the smallest that works."""
        planner = planner_for(compilation.request.options.planner, compilation.problem)
        allocation = planner.allocate(compilation.problem, compilation.deciding_curves)
        return updated(compilation, allocation=allocation)
