"""The fx graph as a networkx DiGraph, and the questions passes ask of it: who reads what, and is a region closed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import networkx as nx
from torch import fx, nn


def as_digraph(graph: fx.Graph) -> nx.DiGraph:
    """One vertex per fx node (the node itself), an edge from every value to each of its readers, in graph order."""
    digraph = nx.DiGraph()
    digraph.add_nodes_from(graph.nodes)
    digraph.add_edges_from((node, reader) for node in graph.nodes for reader in node.users)
    return digraph


def backwards(digraph: nx.DiGraph, start: fx.Node) -> Iterator[fx.Node]:
    """Everything `start` depends on, nearest first."""
    return (node for _, node in nx.bfs_edges(digraph, start, reverse=True))


def region_between(digraph: nx.DiGraph, cut: Collection[fx.Node], output: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes `output` depends on without going through `cut` (with `output`, without the cut), and those among them that
    depend on nothing: an empty second set but for constants means that the cut and nothing else feeds the region."""
    open_graph = digraph.subgraph(set(digraph) - set(cut))
    region = nx.ancestors(open_graph, output) | {output}
    return region, {node for node in region if digraph.in_degree(node) == 0}


def outside_readers(region: Collection[fx.Node], output: fx.Node) -> tuple[fx.Node, ...]:
    """Nodes beyond the region that read a value of its inside (anything but `output`)."""
    return tuple(reader for node in region if node is not output for reader in node.users if reader not in region)


def other_readers_of(graph_module: fx.GraphModule, experts: fx.Node) -> tuple[fx.Node, ...]:
    """Nodes besides `experts` that call its module or one inside it, or read one of its parameters, shared ones included."""
    path = str(experts.target)
    own = {id(parameter) for parameter in graph_module.get_submodule(path).parameters()}
    return tuple(
        node
        for node in graph_module.graph.nodes
        if node is not experts and (_is_inside(node, path) or _holds_any(graph_module, node, own))
    )


def _is_inside(node: fx.Node, path: str) -> bool:
    return node.op in ("call_module", "get_attr") and (node.target == path or str(node.target).startswith(f"{path}."))


def _holds_any(graph_module: fx.GraphModule, node: fx.Node, parameters: set[int]) -> bool:
    return any(id(parameter) in parameters for parameter in _parameters_of(graph_module, node))


def _parameters_of(graph_module: fx.GraphModule, node: fx.Node) -> Iterable[nn.Parameter]:
    if node.op == "call_module":
        return graph_module.get_submodule(str(node.target)).parameters()
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(graph_module.get_submodule(owner), name, None)
        return (value,) if isinstance(value, nn.Parameter) else ()
    return ()
