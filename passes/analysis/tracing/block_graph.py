"""Puts the routing of a block, read from its own code, into the graph in place of the block's call.

routed = block.routing((the block's own tensors), its arguments)
experts = block.experts(hidden, indices, weights)
output = add_to_leaf(the rest of the block's output, leaf, experts)
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from craftc.passes.analysis.tracing.block_reading import NOT_ROUTED, Read, read_block
from craftc.passes.analysis.tracing.block_watch import BlockCall
from craftc.passes.analysis.tracing.experts import ExpertsModule
from craftc.passes.analysis.tracing.stacked import block_of
from craftc.passes.compilation import NearMiss
from craftc.runtime.block_copy import own_tensors, unshared
from craftc.runtime.block_recording import BlockReplay, Recording
from craftc.runtime.block_routing import BlockRouting, add_to_leaf
from craftc.runtime.module_list_experts import expert_modules

RECORDED = "recorded"
"""Key in the meta of an experts node whose rows are not its block's tokens, but as many as its experts are given."""
WHOLE_MODEL = "whole_model"
"""Target of the only call in the graph of `whole_model`; its path in the model is empty."""


def blocks_to_read(
    model: nn.Module, experts: Sequence[ExpertsModule], missed: Sequence[NearMiss]
) -> dict[ExpertsModule, str]:
    """The lists of experts among those missed, each with the path of the block that dispatches to it."""
    names = {miss.name for miss in missed}
    return blocks_of(model, [module for module in experts if module.layout == "module_list" and module.path in names])


def blocks_of(model: nn.Module, experts: Sequence[ExpertsModule]) -> dict[ExpertsModule, str]:
    """The path of the block of each.

    None for a model on the meta device: a block's code can be read only where it runs.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return {}
    return {module: block_of(model, module.path) for module in experts}


def blocks_above(
    model: nn.Module,
    experts: Sequence[ExpertsModule],
    blocks: Mapping[ExpertsModule, str],
    unread: Sequence[NearMiss],
) -> dict[ExpertsModule, str]:
    """The experts whose block gets tokens that are dispatched already, each with the block above, which does that.

    Only if the block above dispatches to no other of the model's `experts`.
    """
    dispatched = {miss.name for miss in unread if miss.reason == NOT_ROUTED}
    above: dict[ExpertsModule, str] = {}
    for module, path in blocks.items():
        if module.path not in dispatched or not path:
            continue
        owner = block_of(model, path)
        if sum(other.path.startswith(f"{owner}." if owner else "") for other in experts) == 1:
            above[module] = owner
    return above


def read_blocks(
    graph_module: fx.GraphModule, inputs: Mapping[str, Any], lists: Sequence[ExpertsModule]
) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph with the experts of every list in `lists` as a node of its own, and the lists where that cannot be.

    A list's block is the leaf of the graph that holds it. Runs the graph once, in a copy of its buffers' values.
    """
    missed: list[NearMiss] = []
    experts_of: dict[fx.Node, ExpertsModule] = {}
    for module in lists:
        calls = [node for node in graph_module.graph.nodes if node.op == "call_module" and _holds(node, module.path)]
        if len(calls) != 1:
            missed.append(NearMiss(module.path, _called(len(calls))))
        elif (other := experts_of.get(calls[0])) is not None:
            reason = (
                f"its block {_path(calls[0])} also calls {other.path}: if both are parts of the same experts, put each "
                f"expert into one module; if not, each list into a block of its own"
            )
            missed.append(NearMiss(module.path, reason))
        else:
            experts_of[calls[0]] = module
    arguments = _arguments(graph_module, inputs, list(experts_of))
    modules: dict[str, Any] = {}
    for node, module in experts_of.items():
        block = graph_module.get_submodule(str(node.target))
        path = module.path.removeprefix(_prefix(node))
        paths = (path,) if module.layout == "stacked" else experts_in(block, path)
        call = BlockCall(block, paths, module.experts, *arguments[node])
        read = read_block(call)
        if isinstance(read, str):
            missed.append(NearMiss(module.path, read))
        else:
            modules |= _replace(graph_module.graph, node, module.path, call, read)
    if not modules:
        return graph_module, tuple(missed)
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target not in modules:
            modules[node.target] = operator.attrgetter(node.target)(graph_module)
    replaced = fx.GraphModule(modules, graph_module.graph, class_name=type(graph_module).__name__)
    replaced.training = graph_module.training
    return replaced, tuple(missed)


def whole_model(model: nn.Module, inputs: Mapping[str, Any]) -> fx.GraphModule:
    """A graph that does nothing but call `model`, a block by itself."""
    graph = fx.Graph()
    arguments: dict[str, Any] = {}
    for name, value in inputs.items():
        has_tensor = any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))
        placeholder = graph.placeholder(name) if has_tensor else graph.placeholder(name, default_value=value)
        placeholder.meta["val"] = pytree.tree_map(_shape_only, value)
        arguments[name] = placeholder if has_tensor else value
    output = graph.create_node("call_module", WHOLE_MODEL, (), arguments)
    with torch.no_grad():
        output.meta["val"] = pytree.tree_map(_shape_only, model(**inputs))
    graph.output(output)
    graph_module = fx.GraphModule({WHOLE_MODEL: model}, graph, class_name=type(model).__name__)
    graph_module.training = model.training
    return graph_module


def experts_in(block: nn.Module, path: str) -> tuple[str, ...]:
    """Paths in `block` of the experts in its list at `path`."""
    return tuple(f"{path}.{name}" for name in expert_modules(block.get_submodule(path)))


def _path(node: fx.Node) -> str:
    return "" if node.target == WHOLE_MODEL else str(node.target)


def _prefix(node: fx.Node) -> str:
    return f"{_path(node)}." if _path(node) else ""


def _holds(node: fx.Node, path: str) -> bool:
    return path.startswith(_prefix(node))


def _called(times: int) -> str:
    if not times:
        return "its block is never called in a forward on the example inputs"
    return f"its block is called {times} times in one forward; a layer's copies are planned for one call"


def _arguments(
    graph_module: fx.GraphModule, inputs: Mapping[str, Any], nodes: Sequence[fx.Node]
) -> dict[fx.Node, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of every node in `nodes`, calls of modules, in one run of the graph."""
    seen: dict[fx.Node, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def record(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[node] = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, (args, kwargs))

    handles = [
        graph_module.get_submodule(str(node.target)).register_forward_pre_hook(
            lambda _, args, kwargs, node=node: record(node, args, kwargs), with_kwargs=True
        )
        for node in nodes
    ]
    try:
        with torch.no_grad():
            graph_module.forward(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _replace(graph: fx.Graph, node: fx.Node, path: str, call: BlockCall, read: Read) -> dict[str, Any]:
    """Put the block's part before its experts, the experts at `path`, and its part after them in place of its call;
    returns what the new nodes call."""
    own = {f"{_prefix(node)}{name}": tensor for name, tensor in own_tensors(call.block, call.experts).items()}
    with torch.no_grad():
        example = read.block(tuple(unshared(tensor) for tensor in own.values()), *call.args, **call.kwargs)
    before, after = (f"{_prefix(node)}{_free_name(call.block, name)}" for name in ("routing", "combination"))
    modules = {**own, before: read.block, path: read.experts}
    with graph.inserting_before(node):
        tensors = tuple(_create(graph, "get_attr", target, (), tensor) for target, tensor in own.items())
        routed = _create(graph, "call_module", before, (tensors, *node.args), example, node.kwargs)
        hidden, indices, weights, rest = (
            _create(graph, "call_function", operator.getitem, (routed, number), part)
            for number, part in enumerate(example)
        )
        called = _create(graph, "call_module", path, (hidden, indices, weights), example[0])
        if isinstance(read.block, BlockRouting):
            result = graph.call_function(add_to_leaf, (rest, read.block.leaf, called))
        else:
            called.meta[RECORDED] = True
            modules[after] = BlockReplay(read.block.block, read.block.tensor_names)
            result = graph.create_node("call_module", after, (tensors, rest, called, *node.args), node.kwargs)
    result.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    read.experts.training = call.block.training
    return modules


def _free_name(block: nn.Module, name: str) -> str:
    return _free_name(block, f"{name}_") if hasattr(block, name) else name


def _create(
    graph: fx.Graph, op: str, target: Any, args: tuple[Any, ...], example: Any, kwargs: dict[str, Any] | None = None
) -> fx.Node:
    node = graph.create_node(op, target, args, kwargs or {})
    node.meta["val"] = pytree.tree_map(_shape_only, example)
    return node


def _shape_only(value: Any) -> Any:
    if isinstance(value, Recording):
        return None  # it holds tensors of the example
    return value.to("meta") if isinstance(value, torch.Tensor) else value
