"""State in numbers what is to be planned: all that planners read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.problem import PlanningProblem


@dataclass(frozen=True)
class PoseProblem(Pass):
    """Needs no model: layers may come from loads."""

    name: ClassVar[str] = "pose_problem"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "layers", "budget_bytes")
    gives: ClassVar[tuple[str, ...]] = ("problem",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput if loads, layers or expert groups do not fit together."""
        request, options = compilation.request, compilation.request.options
        problem = PlanningProblem(
            compilation.loads.counts_SLE,
            request.topology,
            tuple(layer.expert_bytes for layer in compilation.layers),
            compilation.budget_bytes,
            solver=options.solver,
            time_limit_s=options.time_limit_s,
            groups=options.expert_groups,
            # Workloads are weighed by their steps (weigh_workloads); what each step is worth stays balancedness.
            objective="step-time" if options.objective == "step-time" else "balancedness",
            effort=options.effort,
            tokens_per_slot=options.tokens_per_slot,
            layer_experts=compilation.loads.layer_experts,
        )
        return updated(compilation, problem=problem)
