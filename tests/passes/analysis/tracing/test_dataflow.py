"""The DiGraph of an fx graph: edges, meeting points, regions and who reads their inside."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.dataflow import (
    as_digraph,
    is_pure,
    meeting_points,
    other_readers_of,
    outside_reader,
    region_between,
    tensor_flow,
)
from tests.model_families import build_family


def graph_of(edges: list[list[int]]) -> tuple[fx.Graph, list[fx.Node]]:
    """A graph whose node n reads the nodes in `edges[n]`; nodes that read nothing are inputs."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for number, sources in enumerate(edges):
        if sources:
            nodes.append(graph.call_function(torch.add, tuple(nodes[source] for source in sources)))
        else:
            nodes.append(graph.placeholder(f"input_{number}"))
    graph.output(tuple(nodes[-1:]))
    return graph, nodes


@st.composite
def random_edges(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(3, 9))
    return [sorted(draw(st.sets(st.integers(0, number - 1), max_size=3))) if number else [] for number in range(size)]


@given(random_edges(), st.data())
@settings(deadline=None, max_examples=60)
def test_meeting_points_are_the_nodes_without_which_nothing_gets_through(edges, data):
    graph, nodes = graph_of(edges)
    starts = data.draw(st.sets(st.sampled_from(nodes), min_size=1, max_size=3))
    digraph = as_digraph(graph)
    reached = set().union(*(nx.descendants(digraph, start) for start in starts)) | starts
    sinks = {node for node in reached if not digraph.out_degree(node)}
    found = list(meeting_points(digraph, starts))
    for node in reached - starts:
        without = digraph.subgraph(set(digraph) - {node})
        gets_past = any(
            nx.has_path(without, start, sink) for start in starts for sink in sinks - {node} if sink in without
        )
        comes_after_all = all(nx.has_path(digraph, start, node) for start in starts)
        if comes_after_all and not gets_past:
            assert node in found
        if node in found:
            later = [other for other in reached if list(digraph).index(other) > list(digraph).index(node)]
            assert not any(digraph.has_edge(a, b) for a in reached - {node} if a not in later for b in later)


def test_a_region_is_what_lies_behind_the_cut():
    #  0, 1 inputs; 2 = f(0); 3 = f(2, 1); 4 = f(3); 5 = f(2, 4)
    graph, nodes = graph_of([[], [], [0], [2, 1], [3], [2, 4]])
    digraph = as_digraph(graph)
    assert region_between(digraph, [nodes[2], nodes[1]], nodes[4]) == {nodes[3], nodes[4]}
    assert region_between(digraph, [nodes[2]], nodes[4]) == {nodes[1], nodes[3], nodes[4]}
    assert outside_reader({nodes[3], nodes[4]}, nodes[4]) is None
    assert outside_reader({nodes[2], nodes[3], nodes[4]}, nodes[4]) == (nodes[2], nodes[5])


def test_what_only_the_inside_reads_is_inside_unless_it_writes():
    graph = fx.Graph()
    x = graph.placeholder("x")
    inner = graph.call_function(torch.relu, (x,))
    size = graph.call_function(getattr, (inner, "shape"))
    output = graph.call_method("view", (inner, size))
    assert outside_reader({inner, output}, output) is None
    with graph.inserting_before(output):
        write = graph.call_method("zero_", (inner,))
    assert not is_pure(write)
    assert outside_reader({inner, output}, output) == (inner, write)


def test_tensor_flow_leaves_out_sizes():
    model, inputs = build_family("mixtral")
    graph_module, _ = trace(model, inputs)
    everything, contents = as_digraph(graph_module.graph), tensor_flow(graph_module.graph)
    left_out = set(everything.edges) - set(contents.edges)
    assert left_out
    for source, reader in left_out:
        assert not isinstance(source.meta["val"], torch.Tensor) or reader.target is getattr
    assert nx.is_directed_acyclic_graph(everything)
    assert list(everything) == list(graph_module.graph.nodes)


def test_other_readers_finds_submodules_parameters_and_ties():
    root: Any = nn.Module()
    root.experts, root.twin = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    root.free = nn.Linear(2, 2)
    root.twin.weight = root.experts[0].weight
    graph = fx.Graph()
    x = graph.placeholder("x")
    experts = graph.call_module("experts", (x,))
    inner = graph.call_module("experts.0", (x,))
    bias = graph.get_attr("experts.0.bias")
    twin = graph.call_module("twin", (x,))
    graph.call_module("free", (x,))
    graph.output(experts)
    graph_module = fx.GraphModule(root, graph)
    assert other_readers_of(graph_module, experts) == (inner, bias, twin)
