"""Place every copy on a GPU and write down the plan, verified and compared with the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.passes.planning.writing.written_plan import written_plan
from craftc.plans.replication_plan import layer_plan
from craftc.solvers.planners.registry import planner_for


@dataclass(frozen=True)
class PlaceReplicas(Pass):
    """From replica counts to a `ReplicationPlan`."""

    name: ClassVar[str] = "place_replicas"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "layers", "problem", "curves", "allocation")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises VerificationFailed if the planner broke a rule of plans: a bug, never the user's."""
        problem, allocation = compilation.problem, compilation.allocation
        planner = planner_for(compilation.request.options.planner, problem)
        layers = tuple(map(layer_plan, compilation.layers, planner.place(problem, allocation.replicas_L)))
        return updated(compilation, plan=written_plan(compilation, planner, allocation, layers))
