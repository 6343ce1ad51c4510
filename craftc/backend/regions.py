"""The region of an MoE layer in a captured graph: everything between the router's outputs and the experts' sum.

Axes: T tokens, K experts per token, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
import torch
from torch import fx
from torch._ops import HigherOrderOperator

from craftc.passes.analysis.tracing.dataflow import as_digraph
from craftc.passes.compilation import NearMiss

ModuleStack = dict[str, tuple[str, object]]
"""`nn_module_stack` of a node: call key to (path, class or its qualified name), outermost first."""


@dataclass(frozen=True)
class ExpertsParameters:
    """The parameters of one experts module, as nodes of a graph."""

    name: str
    """Path of the experts module in the model."""
    class_name: str
    """Qualified name of its class, `module.Class`."""
    nodes: tuple[tuple[str, fx.Node], ...]
    """Attribute and node of every parameter that the graph uses; dim 0 is the expert."""


@dataclass(frozen=True)
class Region:
    """One call of an experts module: `output = experts(hidden, indices, weights)`."""

    experts: ExpertsParameters
    """The experts of the region."""
    nodes: tuple[fx.Node, ...]
    """The experts' own arithmetic in graph order, without sizes (other layers may share those)."""
    hidden: fx.Node
    """`[T, H]`, floating point."""
    indices: fx.Node
    """`[T, K]`, int64."""
    weights: fx.Node
    """`[T, K]`, floating point."""
    output: fx.Node
    """`[T, H]`."""


def find_regions(graph: fx.Graph, experts: Iterable[ExpertsParameters]) -> tuple[Region | NearMiss, ...]:
    """One record for every experts module in `graph`, in the order given."""
    dataflow = as_digraph(graph)
    return tuple(_find(graph, dataflow, parameters) for parameters in experts)


def example_value(node: fx.Node) -> object:
    """The fake value that Dynamo (`example_value`) or torch.export (`val`) recorded for `node`, or None."""
    return node.meta.get("example_value", node.meta.get("val"))


def _find(graph: fx.Graph, dataflow: nx.DiGraph, experts: ExpertsParameters) -> Region | NearMiss:
    users = [user for _, node in experts.nodes for user in node.users]
    call_of = {user: _call_key(user, experts.class_name) for user in users}
    hidden = next((user for user in users if isinstance(user.target, HigherOrderOperator)), None)
    if hidden is not None:
        where = f"it runs inside {hidden.target}, such as activation checkpointing"
        return NearMiss(experts.name, f"{where}: Dynamo keeps that in a sub-graph; exclude this block from it")
    if None in call_of.values():
        return NearMiss(experts.name, "its weights are also used outside its forward")
    calls = sorted({call for call in call_of.values() if call is not None})
    if len(calls) != 1:
        return NearMiss(experts.name, f"it is called {len(calls)} times in one graph; copies are planned for one call")
    return _match(graph, dataflow, experts, calls[0])


def _call_key(node: fx.Node, class_name: str) -> str | None:
    """Key of the innermost call of a `class_name` module that `node` belongs to."""
    stack: ModuleStack = node.meta.get("nn_module_stack") or {}
    keys = [key for key, (_, cls) in stack.items() if qualified_name(cls) == class_name]
    return keys[-1] if keys else None


def qualified_name(cls: object) -> str:
    """`module.Class` of a class; torch.export already stores that string."""
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else str(cls)


def _match(graph: fx.Graph, dataflow: nx.DiGraph, experts: ExpertsParameters, call: str) -> Region | NearMiss:
    inside = [
        node
        for node in graph.nodes
        if node.op in ("call_function", "call_method", "call_module")
        and call in (node.meta.get("nn_module_stack") or {})
        and not _is_size(node)
    ]
    members = set(inside)
    own = {node for _, node in experts.nodes}
    outside = {
        operand: None
        for node in inside
        for operand in node.all_input_nodes
        if operand not in members and operand not in own and not _is_size(operand)
    }
    outputs = [node for node in inside if any(user not in members for user in node.users)]
    reason = _output_problem(outputs) or _cycle_problem(dataflow, members, outputs)
    if reason:
        return NearMiss(experts.name, reason)
    roles = _roles(list(outside), outputs[0])
    if isinstance(roles, str):
        return NearMiss(experts.name, roles)
    hidden, indices, weights = roles
    return Region(experts, tuple(inside), hidden, indices, weights, outputs[0])


def _is_size(node: fx.Node) -> bool:
    """Sizes are shared between layers under dynamic shapes, so they stay in place."""
    return isinstance(example_value(node), torch.SymInt | int | torch.SymFloat | float | torch.SymBool | bool)


def _output_problem(outputs: list[fx.Node]) -> str | None:
    values = [example_value(node) for node in outputs]
    if len(outputs) != 1:
        return f"its forward must have exactly one tensor as output; the graph uses {len(outputs)}"
    if not isinstance(values[0], torch.Tensor) or values[0].dim() != 2:
        return f"its output must be a [tokens, hidden] tensor, got {describe(values[0])}"
    if not values[0].is_contiguous():
        return "its output must be contiguous"
    return None


def _cycle_problem(dataflow: nx.DiGraph, members: set[fx.Node], outputs: list[fx.Node]) -> str | None:
    """A region can become one call only if nothing outside it depends on one of its nodes and feeds another."""
    after = nx.descendants(dataflow, outputs[0]) - members
    back = next((node for node in members if any(operand in after for operand in node.all_input_nodes)), None)
    return "it needs a value made from its own output" if back else None


def _roles(outside: list[fx.Node], output: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | str:
    """(hidden, indices, weights) among the outside inputs, or why they cannot be identified."""
    values = {node: example_value(node) for node in outside}
    shapes = ", ".join(describe(value) for value in values.values()) or "none"
    wanted = f"its inputs must be hidden [T, H], indices [T, K] and weights [T, K], got {shapes}"
    tensors = {node: value for node, value in values.items() if isinstance(value, torch.Tensor)}
    if len(tensors) != 3 or len(values) != 3 or any(value.dim() != 2 for value in tensors.values()):
        return wanted
    integers = [node for node, value in tensors.items() if not (value.is_floating_point() or value.is_complex())]
    if len(integers) != 1:
        return wanted
    indices = integers[0]
    floats = [node for node in outside if node is not indices]
    output_value = example_value(output)
    assert isinstance(output_value, torch.Tensor)
    hidden = [node for node in floats if _same_width(tensors[node], output_value)]
    weights = [node for node in floats if _same_width(tensors[node], tensors[indices])]
    if len(hidden) != 1 or len(weights) != 1 or hidden == weights:
        return wanted
    return hidden[0], indices, weights[0]


def _same_width(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Widths are static; comparing numbers of tokens could add a guard on a symbolic size."""
    return bool(first.shape[1] == second.shape[1])


def describe(value: object) -> str:
    """`float32 [*, 32]`, or the type if it is not a tensor; the same for every layer and number of tokens."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    sizes = ["*"] * (value.dim() - 1) + [str(value.shape[-1])] if value.dim() else []
    return f"{str(value.dtype).removeprefix('torch.')} [{', '.join(sizes)}]"
