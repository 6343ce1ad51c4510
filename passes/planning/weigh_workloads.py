"""For the objective `worst-workload`: weights of steps under which the planner serves the worst workload best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.passes.planning.pose_problem import planning_problem
from craftc.solvers.objectives import worst_workload_weights
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import DEFAULT_PLANNER


@dataclass(frozen=True)
class WeighWorkloads(Pass):
    """The names of steps are the names of workloads."""

    name: ClassVar[str] = "weigh_workloads"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes")
    gives: ClassVar[tuple[str, ...]] = ("step_weight_S",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Planned at the lowest search effort. Raises BadInput where the loads do not name their steps."""
        assert compilation.loads is not None
        problem = planning_problem(compilation)
        planner = planner_for(self.planner, problem).at_effort("low")
        weight_S = worst_workload_weights(problem, planner, compilation.loads.step_names)
        return replace(compilation, step_weight_S=weight_S)
