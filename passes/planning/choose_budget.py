"""For `--budget auto`: from the benefit curves to the number of replicas that pay for themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.budget import bytes_for_empty_gpus
from craftc.errors import Unsupported
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.allocation.auto_budget import budget_curve
from craftc.solvers.planners.registry import planner_named


@dataclass(frozen=True)
class ChooseBudget(Pass):
    """Leaves a stated budget unchanged."""

    name: ClassVar[str] = "choose_budget"
    needs: ClassVar[tuple[str, ...]] = ("request", "layers", "problem", "curves")
    gives: ClassVar[tuple[str, ...]] = ("problem",)

    def run(self, compilation: Compilation) -> Compilation:
        """The rule is in `craftc.solvers.allocation.auto_budget`; until this pass the budget is the largest useful one.

        Raises Unsupported for planners that give every layer the same number: they cannot follow the curve.
        """
        request, problem = compilation.request, compilation.problem
        if request.budget.kind != "auto":
            return compilation
        if not planner_named(request.options.planner).per_layer:
            raise Unsupported(
                f"budget auto: planner {request.options.planner} gives every layer the same replicas and cannot buy "
                f"only those that pay; give a budget such as 8replicas/gpu"
            )
        if request.options.objective == "worst-workload":
            raise Unsupported(
                "budget auto: its rule is about balancedness or step time, not worst-workload; "
                "give a budget such as 8replicas/gpu"
            )
        sizes_L, gpus = problem.expert_bytes_L, request.topology.gpus
        least_bytes = bytes_for_empty_gpus(compilation.layers, request.topology)
        curve = budget_curve(
            compilation.deciding_curves, sizes_L, gpus, least_bytes, problem.objective, problem.budget_bytes
        )
        chosen = replace(problem, budget_bytes=curve.chosen * gpus * max(sizes_L))
        return updated(compilation, budget_curve=curve, problem=chosen)
