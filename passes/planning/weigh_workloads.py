"""For the objective `worst-workload`: weights of steps with which the planner serves the worst workload best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.objectives import worst_workload_weights
from craftc.solvers.planners.registry import planner_for


@dataclass(frozen=True)
class WeighWorkloads(Pass):
    """The names of steps are the names of workloads."""

    name: ClassVar[str] = "weigh_workloads"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "problem")
    gives: ClassVar[tuple[str, ...]] = ("problem",)

    def run(self, compilation: Compilation) -> Compilation:
        """Planned at the lowest search effort. Raises BadInput if the loads do not name their steps."""
        problem = compilation.problem
        planner = planner_for(compilation.request.options.planner, problem).at_effort("low")
        weight_S = worst_workload_weights(problem, planner, compilation.loads.step_names)
        return updated(compilation, problem=replace(problem, step_weight_S=weight_S))
