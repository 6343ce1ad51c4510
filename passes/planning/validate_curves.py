"""For `--validate`: benefit curves on steps left out of planning; replicas are then allocated by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.errors import BadInput
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.cross_validation import cross_validated_curves, deal_steps
from craftc.solvers.planners.registry import planner_for

_FOLDS = 4


@dataclass(frozen=True)
class ValidateCurves(Pass):
    """Keeps the curves on the plan's own loads, from which the estimate is made."""

    name: ClassVar[str] = "validate_curves"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "problem", "curves")
    gives: ClassVar[tuple[str, ...]] = ("validated_curves",)

    def run(self, compilation: Compilation) -> Compilation:
        """Planned at the lowest search effort. Raises BadInput for a single step, which cannot be left out."""
        loads, problem = compilation.loads, compilation.problem
        if loads.steps < 2:
            raise BadInput("loads have a single step: to validate on steps left out, record more, or drop --validate")
        planner = planner_for(compilation.request.options.planner, problem).at_effort("low")
        fold_S = deal_steps(loads.steps, _FOLDS, loads.step_names)
        validated = cross_validated_curves(problem, planner, compilation.curves, fold_S)
        return updated(compilation, validated_curves=validated)
