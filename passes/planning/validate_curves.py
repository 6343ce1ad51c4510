"""For `--validate`: benefit curves on steps left out of planning, by which replicas are then allocated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.errors import BadInput
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.passes.planning.pose_problem import planning_problem
from craftc.solvers.cross_validation import cross_validated_curves, deal_steps
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import DEFAULT_PLANNER

_FOLDS = 4


@dataclass(frozen=True)
class ValidateCurves(Pass):
    """The curves on the plan's own loads stay beside them: the estimate is made from those."""

    name: ClassVar[str] = "validate_curves"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes", "curves")
    gives: ClassVar[tuple[str, ...]] = ("validated_curves",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Planned at the lowest search effort. Raises BadInput for a single step, which cannot be left out."""
        loads, curves = compilation.loads, compilation.curves
        assert loads is not None
        assert curves is not None
        if loads.steps < 2:
            raise BadInput("loads have a single step: to validate on steps left out, record more, or drop --validate")
        problem = planning_problem(compilation)
        planner = planner_for(self.planner, problem).at_effort("low")
        fold_S = deal_steps(loads.steps, _FOLDS, loads.step_names)
        validated = cross_validated_curves(problem, planner, curves, fold_S)
        return replace(compilation, validated_curves=validated)
