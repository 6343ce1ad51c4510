"""The MoE layers of a traced graph, recognised by structure and dataflow, never by class names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import networkx as nx
import torch
from torch import fx, nn

from craftc.models.moe_layer import MoELayer
from craftc.passes.analysis.tracing.dataflow import as_digraph, backwards, other_readers_of
from craftc.passes.analysis.tracing.experts import ABI, block_index, why_not_fused
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, NearMiss, updated
from craftc.runtime.local_experts import expert_bytes, expert_count
from craftc.runtime.module_list_experts import ModuleListExperts

HIDDEN, INDICES, WEIGHTS = 0, 1, 2
"""Positions of the experts ABI's arguments in the args of every experts node: `[T, H]`, `[T, K]` int64, `[T, K]`."""


@dataclass(frozen=True)
class FindMoELayers(Pass):
    """Sets `node.meta["moe"]` on every experts node, gives the layers by ordinal, adds near misses with their reasons.

    If there are only near misses, there are no layers: the next pass that needs layers refuses.
    """

    name: ClassVar[str] = "find_moe_layers"
    needs: ClassVar[tuple[str, ...]] = ("model", "graph")
    gives: ClassVar[tuple[str, ...]] = ("layers",)

    def run(self, compilation: Compilation) -> Compilation:
        found, missed = find_moe_layers(compilation.model, compilation.graph)
        for node, layer in found:
            node.meta["moe"] = layer
        return updated(
            compilation, layers=tuple(layer for _, layer in found), near_misses=compilation.near_misses + missed
        )


def find_moe_layers(
    model: nn.Module, graph_module: fx.GraphModule
) -> tuple[tuple[tuple[fx.Node, MoELayer], ...], tuple[NearMiss, ...]]:
    """Experts nodes with their layers, by ordinal, and the experts modules that are in the wrong place in the graph."""
    found: list[tuple[fx.Node, MoELayer]] = []
    missed: dict[str, NearMiss] = {}
    digraph = as_digraph(graph_module.graph)
    for node in graph_module.graph.nodes:
        if node.op != "call_module" or node.target in missed:
            continue
        module = graph_module.get_submodule(node.target)
        if not isinstance(module, ModuleListExperts) and why_not_fused(module) is not None:
            continue
        if reason := _why_not_routed(graph_module, node, expert_count(module)):
            missed[node.target] = NearMiss(node.target, reason)
            continue
        found.append((node, _layer(model, digraph, node, module, ordinal=len(found))))
    return tuple(found), tuple(missed.values())


def experts_nodes(graph_module: fx.GraphModule) -> tuple[tuple[fx.Node, MoELayer], ...]:
    """The annotated experts nodes by ordinal; their args are (hidden [T, H], indices [T, K], weights [T, K])."""
    return tuple((node, node.meta["moe"]) for node in graph_module.graph.nodes if "moe" in node.meta)


def _why_not_routed(graph_module: fx.GraphModule, node: fx.Node, experts: int) -> str | None:
    """The first condition on the dataflow around an experts node that does not hold, or None."""
    calls = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    if calls > 1:
        return f"called {calls} times in one forward; a layer's copies are planned for one call"
    if len(node.args) != 3 or node.kwargs:
        return f"called with {len(node.args)} positional and {len(node.kwargs)} keyword arguments, not with {ABI}"
    hidden, indices, weights = (_example(argument) for argument in node.args)
    shapes = f"hidden {_describe(hidden)}, indices {_describe(indices)}, weights {_describe(weights)}"
    if (
        hidden is None
        or indices is None
        or weights is None
        or hidden.dim() < 2
        or {indices.dim(), weights.dim()} != {2}
    ):
        return f"its arguments must be [T, H] (T in one or several dims), [T, K], [T, K]: {shapes}"
    if indices.dtype.is_floating_point or not hidden.is_floating_point() or not weights.is_floating_point():
        return f"its second argument must be integer, the others floating point: {shapes}"
    if indices.shape != weights.shape or indices.shape[0] != hidden.shape[:-1].numel() or indices.shape[1] > experts:
        return f"its arguments must be [T, H], [T, K], [T, K] with K at most {experts}: {shapes}"
    output = node.meta.get("val")
    if not isinstance(output, torch.Tensor) or output.shape != hidden.shape:
        return f"its output must be one tensor like its hidden states {_describe(hidden)}, it is {_describe(output)}"
    if readers := other_readers_of(graph_module, node):
        return f"its parameters are also read by {readers[0].target} ({len(readers)} node(s) in all)"
    return None


def _layer(model: nn.Module, digraph: nx.DiGraph, node: fx.Node, module: nn.Module, ordinal: int) -> MoELayer:
    path, experts = str(node.target), expert_count(module)
    hidden, indices = node.args[HIDDEN], node.args[INDICES]
    assert isinstance(hidden, fx.Node)
    assert isinstance(indices, fx.Node)
    return MoELayer(
        name=path,
        index=block_index(model, path, ordinal),
        experts=experts,
        expert_bytes=expert_bytes(module),
        top_k=indices.meta["val"].shape[1],
        layout="module_list" if isinstance(module, ModuleListExperts) else "fused",
        router=_router(digraph, hidden, indices),
    )


def _router(digraph: nx.DiGraph, hidden: fx.Node, indices: fx.Node) -> str | None:
    """The nearest module between hidden states and indices, or the owner of the nearest parameter read there."""
    for source in backwards(nx.restricted_view(digraph, [hidden], []), indices):
        if source.op == "call_module":
            return str(source.target)
        if source.op == "get_attr":
            return str(source.target).rpartition(".")[0] or None
    return None


def _example(argument: object) -> torch.Tensor | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def _describe(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
