"""`craftc.prepare`: replicated experts inside the model itself, so that `torch.compile` and `generate()` work on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from craftc.errors import BadInput

if TYPE_CHECKING:
    from torch import fx, nn
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
    from craftc.runtime.copy_choice import CopyRule


def prepare(
    model: nn.Module,
    plan: ReplicationPlan,
    *,
    group: ProcessGroup | DeviceMesh | None = None,
    copy_rule: CopyRule = "planned",
    inputs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Replace every planned experts module of a model by a replicated one, in place, and return the model.

    model: with its weights; those that this rank does not need are freed.
    plan: for this model.
    group: the ranks that share the experts, one per planned GPU: a ProcessGroup, or a one-dimensional DeviceMesh.
    Without a group the GPUs are virtual, in this process.
    copy_rule: `planned` (the plan's shares, even ones by default) or `local-first` (needs a group).
    inputs: one call of the model, by keyword; needed only if every expert is a module of its own, or the experts
    module does not have the experts ABI. The block that dispatches is then traced on that call, and replaced by its
    graph.

    Raises BadInput if plan and model, or plan and ranks, do not belong together, Unsupported if such a block
    cannot be traced; the model is then left unchanged.
    """
    from craftc.runtime.agreement import check_ranks_agree
    from craftc.runtime.rank_group import rank_group
    from craftc.runtime.replicated_experts import distributed_experts, virtual_experts

    if group is None:
        if copy_rule != "planned":
            raise BadInput(f"copy rule {copy_rule!r} needs ranks: give a process group")
        return replace_experts(model, plan, virtual_experts, inputs)
    ranks = rank_group(group)
    check_ranks_agree(plan, ranks)

    def replicate(experts: nn.Module, layer: LayerPlan) -> nn.Module:
        return distributed_experts(experts, layer, ranks, copy_rule)

    return replace_experts(model, plan, replicate, inputs)


def replace_experts(
    model: nn.Module,
    plan: ReplicationPlan,
    replicate: Callable[[nn.Module, LayerPlan], nn.Module],
    inputs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Replace the experts of every planned layer by `replicate(experts, layer)`; returns the model.

    inputs: as for `prepare`. Raises BadInput or Unsupported, before anything is replaced, if the model's experts are
    not the planned ones or cannot be replaced.
    """
    from craftc.passes.analysis.tracing.experts import find_experts
    from craftc.passes.analysis.tracing.stacked import find_unsure
    from craftc.runtime.module_list_experts import is_container
    from craftc.runtime.plan_match import check_layer_fits, check_same_layers

    found, near_misses = find_experts(model)
    names = {layer.name for layer in plan.layers}
    # Only planning tells which of the modules that could be experts of another kind are.
    found += tuple(module for module in find_unsure(model, found, near_misses) if module.path in names)
    check_same_layers(plan, (module.path for module in found))
    modules = {layer.name: model.get_submodule(layer.name) for layer in plan.layers}
    dispatched = [module.path for module in found if module.layout != "fused"]
    if dispatched and inputs is None:
        kind = "a ModuleList" if is_container(modules[dispatched[0]]) else "not called with the experts ABI's arguments"
        raise BadInput(
            f"layer {dispatched[0]}: its experts are {kind}, dispatched by their owner's own code: give "
            f"prepare(..., inputs=...), one call's keyword arguments, to trace it"
        )
    graphs = _owner_graphs(model, dispatched, inputs) if inputs is not None else {}
    modules |= {name: graph.get_submodule(name.rpartition(".")[2]) for name, graph in graphs.items()}
    for layer in plan.layers:
        check_layer_fits(layer, modules[layer.name])
    for name, graph in graphs.items():
        model.set_submodule(name.rpartition(".")[0], graph)
    for layer in plan.layers:  # one after the other, so that the weights of at most one layer exist twice
        model.set_submodule(layer.name, replicate(modules.pop(layer.name), layer))
    return model


def _owner_graphs(model: nn.Module, lists: list[str], inputs: Mapping[str, Any]) -> dict[str, fx.GraphModule]:
    if not lists:
        return {}
    # Imported here, because tracing takes memory that ranks with fused experts do not need.
    from craftc.deployment.owner_graphs import owner_graphs

    return owner_graphs(model, lists, inputs)
