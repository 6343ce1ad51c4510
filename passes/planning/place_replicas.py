"""Place every copy on a GPU and write down the plan, verified and compared with the baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.passes.planning.pose_problem import planning_problem
from craftc.passes.planning.writing.written_plan import written_plan
from craftc.plans.replication_plan import layer_plan
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import DEFAULT_PLANNER


@dataclass(frozen=True)
class PlaceReplicas(Pass):
    """From replica counts to a `ReplicationPlan`."""

    name: ClassVar[str] = "place_replicas"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes", "curves", "allocation")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises VerificationFailed where the planner broke a rule of DESIGN section 5: a bug, never the user's."""
        problem = planning_problem(compilation)
        planner = planner_for(self.planner, problem)
        curves, allocation = compilation.curves, compilation.allocation
        assert curves is not None
        assert allocation is not None
        layers = tuple(map(layer_plan, compilation.layers or (), planner.place(problem, allocation.replicas_L)))
        return replace(compilation, plan=written_plan(compilation, problem, planner, curves, allocation, layers))
