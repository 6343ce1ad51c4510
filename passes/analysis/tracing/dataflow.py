"""The fx graph as a networkx DiGraph, and the questions that passes ask about it: who reads what, and is a region
closed."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator

import networkx as nx
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

_SHAPE_READERS = (torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, getattr)
_SHAPE_METHODS = ("size", "dim", "numel", "new_zeros", "new_ones", "new_empty", "new_full")


def as_digraph(graph: fx.Graph) -> nx.DiGraph:
    """One vertex per fx node (the node itself), an edge from every value to each of its readers, in graph order."""
    digraph = nx.DiGraph()
    digraph.add_nodes_from(graph.nodes)
    digraph.add_edges_from((node, reader) for node in graph.nodes for reader in node.users)
    return digraph


def tensor_flow(graph: fx.Graph) -> nx.DiGraph:
    """The edges of `as_digraph` along which contents of tensors flow: no sizes, no dtypes, no readers of a shape
    alone."""
    digraph = as_digraph(graph)
    digraph.remove_edges_from(
        [(node, reader) for node, reader in digraph.edges if not holds_tensor(node) or _reads_shape_only(reader)]
    )
    return digraph


def backwards(digraph: nx.DiGraph, start: fx.Node) -> Iterator[fx.Node]:
    """Everything `start` depends on, nearest first."""
    return (node for _, node in nx.bfs_edges(digraph, start, reverse=True))


def meeting_points(digraph: nx.DiGraph, starts: Collection[fx.Node]) -> Iterator[fx.Node]:
    """Nodes that everything computed from `starts` passes through (their common post-dominators), nearest first."""
    position = {node: number for number, node in enumerate(digraph)}
    reached: set[fx.Node] = set()
    waiting, last_read = set(starts), -1
    for node, here in position.items():
        if not reached and node not in waiting:
            continue
        if node in waiting or not reached.isdisjoint(digraph.predecessors(node)):
            if not waiting and last_read <= here:
                yield node
            waiting.discard(node)
            reached.add(node)
            last_read = max(last_read, *(position[reader] for reader in digraph.successors(node)), -1)


def region_between(digraph: nx.DiGraph, cut: Collection[fx.Node], output: fx.Node) -> set[fx.Node]:
    """The nodes that `output` depends on without passing through `cut`; includes `output`, excludes the cut."""
    region, front = {output}, [output]
    while front:
        sources = set(digraph.predecessors(front.pop())) - region - set(cut)
        region |= sources
        front.extend(sources)
    return region


def outside_reader(region: Collection[fx.Node], output: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """A node of the region other than `output` and a reader of it outside, or None.

    Nodes that only the inside reads count as inside.
    """
    inside, left, node = {output}, set(region) - {output}, output
    while left:
        node = node.prev
        if node not in left and not is_pure(node):
            continue
        left.discard(node)
        outer = next((reader for reader in node.users if reader not in inside), None)
        if outer is None:
            inside.add(node)
        elif node in region:
            return node, outer
    return None


def holds_tensor(node: fx.Node) -> bool:
    """Whether the node's value is a tensor or holds one; assumed if the value is unknown."""
    return "val" not in node.meta or any(
        isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(node.meta["val"])
    )


def is_pure(node: fx.Node) -> bool:
    """Whether the node computes a value and does nothing else, so it can be removed when nobody reads it."""
    return node.op in ("call_function", "call_method") and not writes_in_place(node)


def writes_in_place(node: fx.Node) -> bool:
    """Whether the node writes into its first argument."""
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "set_item"


def other_readers_of(graph_module: fx.GraphModule, experts: fx.Node) -> tuple[fx.Node, ...]:
    """Nodes besides `experts` that call its module or one inside it, or read a parameter of it (tied ones too)."""
    path = str(experts.target)
    own = {id(parameter) for parameter in graph_module.get_submodule(path).parameters()}
    return tuple(
        node
        for node in graph_module.graph.nodes
        if node is not experts and (_is_inside(node, path) or _holds_any(graph_module, node, own))
    )


def _reads_shape_only(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _SHAPE_READERS
    return node.op == "call_method" and node.target in _SHAPE_METHODS


def _is_inside(node: fx.Node, path: str) -> bool:
    return node.op in ("call_module", "get_attr") and (node.target == path or str(node.target).startswith(f"{path}."))


def _holds_any(graph_module: fx.GraphModule, node: fx.Node, parameters: set[int]) -> bool:
    return any(id(parameter) in parameters for parameter in _parameters_of(graph_module, node))


def _parameters_of(graph_module: fx.GraphModule, node: fx.Node) -> Iterable[nn.Parameter]:
    if node.op == "call_module":
        return graph_module.get_submodule(str(node.target)).parameters()
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(graph_module)
        return (value,) if isinstance(value, nn.Parameter) else ()
    return ()
