"""The drawing: what is in it, that it is XML, the same every time, and small for large graphs."""

from __future__ import annotations

from xml.etree import ElementTree

import networkx as nx
import pytest

from craftc.errors import BadInput
from craftc.report.graph_picture import condensed, draw_graph
from tests.passes.traced import traced


@pytest.fixture(scope="module")
def graph_module():
    return traced("qwen2_moe").graph


def test_the_drawing_marks_every_moe_layer(graph_module, tmp_path):
    draw_graph(graph_module, tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for name in ("model.layers.0.mlp.experts", "model.layers.2.mlp.experts", "model.layers.2.mlp.gate", "input_ids"):
        assert name in text
    assert text.count("8 experts, top-2") == 2
    draw_graph(graph_module, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "graph.svg").read_bytes()


def test_stretches_between_layers_are_one_box_and_hold_every_node(graph_module):
    drawn = condensed(graph_module.graph)
    boxes = [drawn.nodes[number]["box"] for number in drawn]
    assert [box.kind for box in boxes].count("moe") == 2
    assert [box.kind for box in boxes].count("router") == 2
    assert nx.is_directed_acyclic_graph(drawn)
    assert nx.is_weakly_connected(drawn)
    others = [int(box.label.split("\n")[1].split()[0]) for box in boxes if box.kind == "other" and "\n" in box.label]
    single = sum(1 for box in boxes if box.kind == "other" and "\n" not in box.label)
    marked = sum(1 for box in boxes if box.kind != "other")
    assert sum(others) + single + marked == len(graph_module.graph.nodes)
    assert len(boxes) < len(graph_module.graph.nodes) / 3


def test_a_folder_that_is_not_there_gives_one_line(graph_module, tmp_path):
    with pytest.raises(BadInput, match=r"cannot write .*there is no folder"):
        draw_graph(graph_module, tmp_path / "nowhere" / "graph.svg")
