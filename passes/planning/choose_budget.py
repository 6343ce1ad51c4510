"""For `--budget auto`: from the benefit curves to the number of replicas that pay for themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.budget import bytes_for_empty_gpus, parse_budget
from craftc.errors import Unsupported
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.solvers.allocation.auto_budget import budget_curve
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import DEFAULT_PLANNER


@dataclass(frozen=True)
class ChooseBudget(Pass):
    """Leaves a budget that was asked for as it is."""

    name: ClassVar[str] = "choose_budget"
    needs: ClassVar[tuple[str, ...]] = ("layers", "topology", "budget_requested", "budget_bytes", "curves")
    gives: ClassVar[tuple[str, ...]] = ("budget_bytes",)

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""

    def run(self, compilation: Compilation) -> Compilation:
        """The rule is in `craftc.solvers.allocation.auto_budget`; until here `budget_bytes` was the largest of use.

        Raises Unsupported for planners that give every layer the same: they cannot follow the curve.
        """
        layers, topology, curves = compilation.layers, compilation.topology, compilation.deciding_curves
        assert compilation.budget_requested is not None
        assert layers is not None
        assert topology is not None
        assert curves is not None
        if parse_budget(compilation.budget_requested).kind != "auto":
            return compilation
        if not planner_named(self.planner).per_layer:
            raise Unsupported(
                f"budget auto: planner {self.planner} gives every layer the same replicas and cannot buy only those "
                f"that pay; give a budget such as 8replicas/gpu"
            )
        if compilation.objective != "balancedness":
            raise Unsupported(
                f"budget auto: its rule is about balancedness, not {compilation.objective}; "
                f"give a budget such as 8replicas/gpu"
            )
        sizes_L = tuple(layer.expert_bytes for layer in layers)
        curve = budget_curve(curves, sizes_L, topology.gpus, bytes_for_empty_gpus(layers, topology))
        chosen_bytes = curve.chosen * topology.gpus * max(sizes_L)
        return replace(compilation, budget_curve=curve, budget_bytes=chosen_bytes)
