"""Estimate what replicas would buy in every layer: the benefit curves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.passes.planning.pose_problem import planning_problem
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import DEFAULT_PLANNER


@dataclass(frozen=True)
class EstimateBenefit(Pass):
    """Needs no model: loads, layers, topology and budget are enough."""

    name: ClassVar[str] = "estimate_benefit"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes")
    gives: ClassVar[tuple[str, ...]] = ("curves",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput where loads and layers do not belong together, or on an unknown planner."""
        problem = planning_problem(compilation)
        return replace(compilation, curves=planner_for(self.planner, problem).estimate(problem))
