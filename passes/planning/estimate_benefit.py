"""Estimate what replicas would gain in every layer: the benefit curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.planners.registry import planner_for


@dataclass(frozen=True)
class EstimateBenefit(Pass):
    """Estimates with the placement that will be used."""

    name: ClassVar[str] = "estimate_benefit"
    needs: ClassVar[tuple[str, ...]] = ("request", "problem")
    gives: ClassVar[tuple[str, ...]] = ("curves",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput on an unknown planner, Unsupported if it cannot do what is asked."""
        planner = planner_for(compilation.request.options.planner, compilation.problem)
        return updated(compilation, curves=planner.estimate(compilation.problem))
