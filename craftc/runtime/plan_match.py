"""Does a plan belong to a model? Names, numbers of experts and sizes are compared before anything is replaced."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.local_experts import expert_bytes, expert_count


def check_same_layers(plan: ReplicationPlan, names: Iterable[str]) -> None:
    """Raise BadInput unless the plan's layers are exactly the model's MoE layers `names`."""
    planned, present = {layer.name for layer in plan.layers}, set(names)
    unknown = [layer.name for layer in plan.layers if layer.name not in present]
    if unknown:
        raise BadInput(
            f"plan does not belong to this model: no MoE layer {unknown[0]} in it "
            f"({len(unknown)} of the plan's {len(plan.layers)} layers are missing; the model has {len(present)})"
        )
    unplanned = sorted(present - planned)
    if unplanned:
        raise BadInput(
            f"plan does not belong to this model: its MoE layer {unplanned[0]} is not planned "
            f"({len(unplanned)} of {len(present)} layers); plan again for this model"
        )


def check_layer_fits(layer: LayerPlan, experts: nn.Module) -> None:
    """Raise BadInput unless `experts` has the planned number of experts and bytes per expert."""
    found = expert_count(experts)
    if found != layer.experts:
        raise BadInput(f"plan: layer {layer.name} has {layer.experts} experts in the plan, {found} in the model")
    size = expert_bytes(experts)
    if size != layer.expert_bytes:
        raise BadInput(
            f"plan: an expert of layer {layer.name} has {layer.expert_bytes:,} bytes in the plan, {size:,} in the "
            f"model; plan again for this model and dtype"
        )
