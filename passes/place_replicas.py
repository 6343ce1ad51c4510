"""Place every copy on a GPU and write down the plan, verified and compared with the baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import ClassVar

from craftc.comparison import compare
from craftc.fingerprint import fingerprint_model
from craftc.passes.base import Compilation, Pass
from craftc.passes.planning_problem import planning_problem
from craftc.plan import PlanBudget, Provenance, ReplicationPlan, layer_plan
from craftc.plan_verifier import require_sound
from craftc.solvers.planners import DEFAULT_PLANNER, planner_named


@dataclass(frozen=True)
class PlaceReplicas(Pass):
    """From replica counts to a `ReplicationPlan`."""

    name: ClassVar[str] = "place_replicas"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers", "topology", "budget_bytes", "curves", "allocation")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners`."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises VerificationFailed where the planner broke a rule of DESIGN section 5: a bug, never the user's."""
        problem = planning_problem(compilation)
        planner = planner_named(self.planner)
        curves, allocation, loads = compilation.curves, compilation.allocation, compilation.loads
        assert curves is not None
        assert allocation is not None
        assert loads is not None
        placements = planner.place(problem, allocation.replicas_L)
        fingerprint = None if compilation.model is None else f"sha256:{fingerprint_model(compilation.model)}"
        layers = tuple(map(layer_plan, compilation.layers or (), placements))
        plan = ReplicationPlan(
            topology=problem.topology,
            budget=PlanBudget(
                requested=compilation.budget_requested or f"{problem.budget_bytes}B",
                bytes=problem.budget_bytes,
                spent_bytes=sum(layer.replicas * layer.expert_bytes for layer in layers),
            ),
            layers=layers,
            estimate=compare(problem, planner, curves, allocation, placements),
            provenance=Provenance(
                craftc=version("craftc"),
                loads=f"sha256:{loads.sha256}",
                model=fingerprint,
                planner=planner.name,
                solver=allocation.solver,
                status=allocation.status,
                gap=None if allocation.status == "heuristic" else allocation.gap,
            ),
        )
        require_sound(plan)
        return replace(compilation, plan=plan)
