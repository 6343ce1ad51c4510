"""State what the plan's replicas gain on steps left out of planning and on the steps planned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.plans.replication_plan import CrossValidation
from craftc.solvers.cross_validation import deal_steps, seen_and_unseen
from craftc.solvers.planners.registry import planner_for

_FOLDS = 2
"""Few, because every plan pays for them: each costs two placements at the lowest search effort."""


@dataclass(frozen=True)
class CrossValidate(Pass):
    """Leaves placements unchanged."""

    name: ClassVar[str] = "cross_validate"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "problem", "plan")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        """The plan with this statement in its estimate; unchanged if there is a single step, or no estimate."""
        plan, loads, problem = compilation.plan, compilation.loads, compilation.problem
        if loads.steps < 2 or plan.estimate is None:
            return compilation
        planner = planner_for(compilation.request.options.planner, problem).at_effort("low")
        phases = compilation.phases if compilation.knows("phases") else None
        # Phases in turn, dealt in turn, would each be planned by the other alone.
        fold_S = deal_steps(loads.steps, _FOLDS, loads.step_names if phases is None else phases.name_S)
        without = seen_and_unseen(problem, planner, (0,) * problem.layers, fold_S)
        planned = seen_and_unseen(problem, planner, [layer.replicas for layer in plan.layers], fold_S)
        checked = CrossValidation(
            folds=_FOLDS,
            seen=float(planned.seen_L.mean()),
            unseen=float(planned.unseen_FL.mean()),
            placement_only_seen=float(without.seen_L.mean()),
            placement_only_unseen=float(without.unseen_FL.mean()),
        )
        return updated(compilation, plan=replace(plan, estimate=replace(plan.estimate, cross_validation=checked)))
