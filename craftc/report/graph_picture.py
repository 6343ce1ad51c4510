"""The dataflow graph as a drawing: MoE layers marked, long stretches without one collapsed into single boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from torch import fx

from craftc.files.atomic_write import atomic_file
from craftc.models.moe_layer import MoELayer
from craftc.passes.analysis.tracing.dataflow import as_digraph

_COLLAPSE_ABOVE = 40
"""Graphs of more nodes are drawn with the nodes between MoE layers collapsed."""
_ROWS = 24
"""Rows of boxes in a column of the drawing."""
_FAR = 4
"""Rows an implied edge may span and still be drawn."""
_BOX_WIDTH, _BOX_HEIGHT, _ROW_HEIGHT, _LANE_WIDTH = 2.9, 0.42, 0.66, 3.1
"""Inches."""
_COLOURS = {"moe": "#f4b183", "router": "#ffe699", "edge": "#c5e0b4", "other": "#eeeeee"}


@dataclass(frozen=True)
class Box:
    """One drawn box: one node, or a stretch of them."""

    label: str
    """At most two lines."""
    kind: str
    """`moe`, `router`, `edge` (input or output) or `other`."""


def draw_graph(graph_module: fx.GraphModule, path: Path) -> None:
    """Write the traced graph to `path` as SVG, whole or not at all; the same graph gives the same bytes.

    Raises BadInput if the file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "craftc", "svg.fonttype": "none"}):
        figure = _figure(condensed(graph_module.graph))
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None}, bbox_inches="tight")


def condensed(graph: fx.Graph) -> nx.DiGraph:
    """`Box`es (attribute `box` of vertices 0, 1, ...) in graph order, acyclic: stretches have no gaps."""
    digraph = as_digraph(graph)
    layers: list[MoELayer] = [node.meta["moe"] for node in graph.nodes if "moe" in node.meta]
    routers = {layer.router for layer in layers}
    collapse = digraph.number_of_nodes() > _COLLAPSE_ABOVE
    boxes: list[list[fx.Node]] = []
    for node in digraph:
        alone = not collapse or _kind(node, routers) != "other"
        if alone or not boxes or _kind(boxes[-1][0], routers) != "other":
            boxes.append([node])
        else:
            boxes[-1].append(node)
    number_of = {node: number for number, nodes in enumerate(boxes) for node in nodes}
    drawn = nx.DiGraph()
    for number, nodes in enumerate(boxes):
        drawn.add_node(number, box=Box(_label(nodes), _kind(nodes[0], routers)))
    ends = ((number_of[source], number_of[reader]) for source, reader in digraph.edges)
    drawn.add_edges_from((source, reader) for source, reader in ends if source != reader)
    return _without_far_edges(drawn) if collapse else drawn


def _without_far_edges(drawn: nx.DiGraph) -> nx.DiGraph:
    """Without edges that span many rows and are implied by a path: those of a mask would hide the rest."""
    row = {number: depth for depth, generation in enumerate(nx.topological_generations(drawn)) for number in generation}
    needed = nx.transitive_reduction(drawn).edges
    far = [(a, b) for a, b in drawn.edges if row[b] - row[a] > _FAR and (a, b) not in needed]
    drawn.remove_edges_from(far)
    return drawn


def _kind(node: fx.Node, routers: set[str | None]) -> str:
    if "moe" in node.meta:
        return "moe"
    if node.op == "call_module" and node.target in routers:
        return "router"
    return "edge" if node.op in ("placeholder", "output") else "other"


def _label(nodes: list[fx.Node]) -> str:
    first = nodes[0]
    if "moe" in first.meta:
        layer: MoELayer = first.meta["moe"]
        return f"{layer.name}\n{layer.experts} experts, top-{layer.top_k}"
    if len(nodes) == 1:
        return str(first.target) if first.op in ("call_module", "placeholder", "get_attr") else first.name
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    ends = called[:1] + called[1:][-1:]
    return f"{' ... '.join(_short(path) for path in ends) or first.name}\n{len(nodes)} nodes"


def _short(path: str) -> str:
    """The last two names of a module path, and the block number before them."""
    return ".".join(path.split(".")[-3:])


def _figure(drawn: nx.DiGraph) -> Any:
    from matplotlib.figure import Figure

    positions = _positions(drawn)
    width = max(x for x, _ in positions.values()) + _BOX_WIDTH
    height = max(-y for _, y in positions.values()) + 1
    figure = Figure(figsize=(width, height + 1))  # data units are inches
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for source, reader in drawn.edges:
        start, end = positions[source], positions[reader]
        beside = start[0] == end[0] and start[1] - end[1] > 1.5 * _ROW_HEIGHT  # would run behind the boxes between
        if beside:
            start = (start[0] + _half_width(drawn, source), start[1])
            end = (end[0] + _half_width(drawn, reader), end[1])
        else:
            start, end = (start[0], start[1] - _BOX_HEIGHT / 2), (end[0], end[1] + _BOX_HEIGHT / 2)
        arrow = {
            "arrowstyle": "-|>",
            "linewidth": 0.6,
            "color": "#777777",
            "connectionstyle": "arc3,rad=-0.3" if beside else "arc3",
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    for number, (x, y) in positions.items():
        box: Box = drawn.nodes[number]["box"]
        style = {
            "boxstyle": "round,pad=0.25",
            "facecolor": _COLOURS[box.kind],
            "edgecolor": "#555555",
            "linewidth": 0.6,
        }
        weight = "bold" if box.kind == "moe" else "normal"
        axes.text(x, y, box.label, ha="center", va="center", fontsize=6.5, fontweight=weight, bbox=style)
    axes.set_xlim(-_BOX_WIDTH / 2, width - _BOX_WIDTH / 2)
    axes.set_ylim(-height, 1)
    return figure


def _half_width(drawn: nx.DiGraph, number: int) -> float:
    """Half a box's width in inches, from its longest line."""
    return 0.1 + 0.026 * max(len(line) for line in drawn.nodes[number]["box"].label.splitlines())


def _positions(drawn: nx.DiGraph) -> dict[int, tuple[float, float]]:
    """Centre of every box: one row per topological generation, boxes of a row side by side, columns of `_ROWS` rows."""
    generations = [sorted(generation) for generation in nx.topological_generations(drawn)]
    positions: dict[int, tuple[float, float]] = {}
    left = 0.0
    for column in _chunks(generations, _ROWS):
        lanes = max(len(row) for row in column)
        for depth, row in enumerate(column):
            indent = (lanes - len(row)) / 2
            for lane, number in enumerate(row):
                positions[number] = (left + (indent + lane) * _LANE_WIDTH, -depth * _ROW_HEIGHT)
        left += (lanes + 0.25) * _LANE_WIDTH
    return positions


def _chunks(rows: list[list[int]], size: int) -> Iterable[list[list[int]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
