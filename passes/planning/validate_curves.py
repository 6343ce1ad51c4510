"""Judge benefit curves on steps left out of planning, and let these decide about replicas where they would gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.cross_validation import MOST_LAYERS, deal_steps, retained_curves
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import Allocation, BenefitCurves

_FOLDS = 4
_LEAST_STEPS = 4
_LUCK = 0.1
"""About twice what the gain of a count scatters by, in balancedness, on one fold of one layer."""


@dataclass(frozen=True)
class ValidateCurves(Pass):
    """Keeps the curves on the plan's own loads, from which the estimate is made."""

    name: ClassVar[str] = "validate_curves"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "problem", "curves")
    gives: ClassVar[tuple[str, ...]] = ("validated_curves",)

    def run(self, compilation: Compilation) -> Compilation:
        """None if there are fewer than four steps, if the planner follows a published rule, or if the allocation by
        the plan's own loads is as good on steps left out, but for luck."""
        loads, problem, own = compilation.loads, compilation.problem, compilation.curves
        planner = planner_for(compilation.request.options.planner, problem)
        if loads.steps < _LEAST_STEPS or not planner.sketches or len(own.candidates_C) == 1:
            return updated(compilation, validated_curves=None)
        retained = retained_curves(problem, planner, own, deal_steps(loads.steps, _FOLDS, loads.step_names))
        if compilation.request.budget.kind == "auto":
            return updated(compilation, validated_curves=retained)
        better, usual = (_value(retained, planner.knapsack(problem, curves)) for curves in (retained, own))
        luck = _LUCK / math.sqrt(_FOLDS * min(problem.layers, MOST_LAYERS))
        gains = better - usual >= luck * problem.layers
        return updated(compilation, validated_curves=retained if gains else None)


def _value(curves: BenefitCurves, allocation: Allocation) -> float:
    """The benefit of an allocation by other curves than it was made from."""
    return float(
        sum(
            benefit_C[curves.candidates_C.index(count)]
            for benefit_C, count in zip(curves.benefit_LC, allocation.replicas_L, strict=True)
        )
    )
