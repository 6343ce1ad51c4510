"""`craftc.prepare`: replicated experts inside the model itself, so that `torch.compile` and `generate()` work on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from craftc.errors import BadInput

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from craftc.plan import LayerPlan, ReplicationPlan
    from craftc.runtime.copy_choice import CopyRule


def prepare(
    model: nn.Module,
    plan: ReplicationPlan,
    *,
    group: ProcessGroup | DeviceMesh | None = None,
    copy_rule: CopyRule = "planned",
) -> nn.Module:
    """Replace, in place, every planned experts module by a replicated one; gives `model` back.

    group: the ranks that share the experts, one per planned GPU, or a one-dimensional DeviceMesh; each rank keeps only
    its own slots' weights, and the others are freed. Without a group the GPUs are virtual, in this process.
    copy_rule: `planned` (the plan's shares, even ones by default) or `local-first` (needs a group).

    Raises BadInput where plan and model, or plan and ranks, do not belong together; the model is then as it was.
    Experts kept one module each are dispatched by their owner's own code and cannot be replaced in place:
    `craftc.optimize` and `craftc.load` handle them in the traced graph.
    """
    from craftc.runtime.agreement import check_ranks_agree
    from craftc.runtime.rank_group import rank_group
    from craftc.runtime.replicated_experts import distributed_experts, virtual_experts

    if group is None:
        if copy_rule != "planned":
            raise BadInput(f"copy rule {copy_rule!r} needs ranks: give a process group")
        return replace_experts(model, plan, virtual_experts)
    ranks = rank_group(group)
    check_ranks_agree(plan, ranks)
    return replace_experts(model, plan, lambda experts, layer: distributed_experts(experts, layer, ranks, copy_rule))


def replace_experts(
    model: nn.Module, plan: ReplicationPlan, replicate: Callable[[nn.Module, LayerPlan], nn.Module]
) -> nn.Module:
    """Put `replicate(experts, layer)` in the place of every planned layer's experts; gives `model` back.

    Raises BadInput, before anything is replaced, where the model's experts are not the planned ones.
    """
    from torch import nn

    from craftc.passes.tracing_experts import find_experts
    from craftc.runtime.plan_match import check_layer_fits, check_same_layers

    found, _ = find_experts(model)
    check_same_layers(plan, (one.path for one in found))
    modules = {layer.name: model.get_submodule(layer.name) for layer in plan.layers}
    for layer in plan.layers:
        if isinstance(modules[layer.name], nn.ModuleList):
            raise BadInput(
                f"layer {layer.name}: its experts are a ModuleList, dispatched by their owner's own code: they cannot "
                f"be replaced in place; use craftc.optimize(...).model, or craftc.load"
            )
        check_layer_fits(layer, modules[layer.name])
    for layer in plan.layers:  # one after the other, so that at most one layer's weights exist twice
        model.set_submodule(layer.name, replicate(modules.pop(layer.name), layer))
    return model
