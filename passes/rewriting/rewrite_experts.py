"""The experts of every MoE layer become a replicated module that holds the copies in the plan."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.plan_match import check_layer_fits, check_same_layers
from craftc.runtime.replicated_experts import virtual_experts

Replicate = Callable[[nn.Module, LayerPlan], nn.Module]
"""Makes the replicated module of one layer from its experts module."""


@dataclass(frozen=True)
class RewriteExperts(Pass):
    """Replaces experts by `ReplicatedExperts` over virtual GPUs, which run the model's own experts code.

    The traced graph is left unchanged: the rewritten one is a new GraphModule that shares all weights with it.
    Raises BadInput if plan and model do not belong together.
    """

    name: ClassVar[str] = "rewrite_experts"
    needs: ClassVar[tuple[str, ...]] = ("graph", "layers", "plan")
    gives: ClassVar[tuple[str, ...]] = ("graph",)
    changes_graph: ClassVar[bool] = True

    def run(self, compilation: Compilation) -> Compilation:
        return updated(compilation, graph=rewrite_experts(compilation.graph, compilation.plan, virtual_experts))


def rewrite_experts(graph: fx.GraphModule, plan: ReplicationPlan, replicate: Replicate) -> fx.GraphModule:
    """`graph`, in which every `call_module` node that has `meta["moe"]` calls what `replicate` makes of its experts.

    Raises BadInput unless the plan's layers are the graph's, with the same numbers of experts and the same sizes.
    """
    targets = {node.meta["moe"].name: node.target for node in graph.graph.nodes if "moe" in node.meta}
    check_same_layers(plan, targets)
    rewritten = fx.GraphModule(graph, copy.deepcopy(graph.graph), class_name=type(graph).__name__)
    for layer in plan.layers:
        experts = graph.get_submodule(targets[layer.name])
        check_layer_fits(layer, experts)
        rewritten.set_submodule(targets[layer.name], replicate(experts, layer))
    return rewritten
