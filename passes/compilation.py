"""What is known so far: the value that passes fill in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.plans.replication_plan import PlanObjective, ReplicationPlan
from craftc.solvers.allocation.auto_budget import BudgetCurve
from craftc.solvers.problem import Allocation, BenefitCurves, EffortName
from craftc.topology import Topology

if TYPE_CHECKING:  # planning from loads alone must not pay for importing torch
    import numpy as np
    from torch import fx, nn


@dataclass(frozen=True)
class NearMiss:
    """A module that looks like experts but is not handled, and why."""

    name: str
    """Module path."""
    reason: str
    """The condition that failed, with the numbers."""


@dataclass(frozen=True)
class Verification:
    """What `verify_rewrite` measured."""

    max_abs_difference: dict[str, float]
    """Largest |rewritten - original| output per dtype."""
    tolerance: dict[str, float]
    """Largest difference allowed per dtype."""
    max_token_deviation: float
    """Largest |counted - predicted| GPU load over all layers and GPUs, as a fraction of the mean GPU load."""


@dataclass(frozen=True, eq=False)
class Compilation:
    """Everything known so far; a pass returns a copy with more of it filled in."""

    model: nn.Module | None = None
    """The original model, untouched."""
    inputs: WorkloadInputs | None = None
    """Its inputs."""
    graph: fx.GraphModule | None = None
    """The traced (later: rewritten) model."""
    layers: tuple[MoELayer, ...] | None = None
    """MoE layers by ordinal."""
    near_misses: tuple[NearMiss, ...] = ()
    """What was almost an MoE layer."""
    loads: LoadProfile | None = None
    """Measured or imported loads."""
    topology: Topology | None = None
    """GPUs and nodes to plan for."""
    expert_groups: int = 1
    """Groups of contiguous experts that each stay on one node; 1 is no such rule."""
    budget_requested: str | None = None
    """The budget as the user wrote it."""
    budget_bytes: int | None = None
    """The budget in bytes, all GPUs together."""
    effort: EffortName = "medium"
    """How hard placements are searched."""
    objective: PlanObjective = "balancedness"
    """What the plan is made to be good at."""
    step_weight_S: np.ndarray | None = None
    """How much every step counts in planning, where not all the same."""
    curves: BenefitCurves | None = None
    """Benefit of replicas per layer."""
    validated_curves: BenefitCurves | None = None
    """The same on steps left out of planning, where replicas are to be allocated by that."""
    budget_curve: BudgetCurve | None = None
    """What every budget would reach, where the budget was chosen by it."""
    allocation: Allocation | None = None
    """Replicas per layer."""
    plan: ReplicationPlan | None = None
    """Copies and placement."""
    verification: Verification | None = None
    """Measured equality of original and rewritten model."""

    @property
    def deciding_curves(self) -> BenefitCurves | None:
        """The curves that replicas are allocated by."""
        return self.curves if self.validated_curves is None else self.validated_curves


def require_moe_layers(compilation: Compilation) -> None:
    """Raise BadInput, naming the first near miss, where the model was searched and has no MoE layer."""
    if not compilation.layers:
        raise BadInput(no_moe_layer(type(compilation.model).__name__, compilation.near_misses))


def no_moe_layer(kind: str, near_misses: tuple[NearMiss, ...]) -> str:
    """What was looked for in a model of class `kind`, or what was almost found."""
    if not near_misses:
        return (
            f"{kind} has no MoE layer: neither a module with 3-D parameters stacked over experts, "
            f"nor a ModuleList of alike experts with a router beside it"
        )
    first = near_misses[0]
    count = "1 near miss" if len(near_misses) == 1 else f"{len(near_misses)} near misses (craftc inspect), the first"
    return f"{kind} has no MoE layer that craftc can handle; {count}: {first.name}: {first.reason}"
