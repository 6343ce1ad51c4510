"""Clusters as values: presets and their sources, figures by path, fingerprints, what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.serving.cluster import Cluster, Figure, NodeSpec, PeakTflops, WireCopies, preset_names, read_cluster

PRESETS = ("a100-80g-efa", "a100-80g-ib", "b200-ib", "h100-ib", "h200-ib", "mi300x-ib")
ELSEWHERE = "a test"


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return read_cluster("a100-80g-efa")


def test_the_presets_are_those_promised():
    assert preset_names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_number_of_a_preset_has_a_source(name):
    preset = read_cluster(name)
    assert preset.name == name
    assert len(preset.figures) >= 18
    assert all(len(figure.source) > 10 for _, figure in preset.figures)
    assert len(preset.network.wire_copies.source) > 10


@pytest.mark.parametrize("name", PRESETS)
def test_what_nobody_measured_is_called_assumed(name):
    origins = {path: figure.origin for path, figure in read_cluster(name).figures}
    assert origins["network.overlap"] == "assumed"
    assert (origins["chip.expert_efficiency"] == "assumed") == (name == "mi300x-ib")
    assert origins["chip.hbm_gib"] == "stated"


@pytest.mark.parametrize(
    ("source", "origin"),
    [("assumed: none", "assumed"), ("calibrated to 5 rows", "calibrated"), ("a sheet, not assumed", "stated")],
)
def test_the_origin_is_how_the_source_begins(source, origin):
    assert Figure(1, source).origin == origin


def test_figures_are_listed_in_the_order_of_the_file(cluster):
    paths = [path for path, _ in cluster.figures]
    assert paths[:4] == ["chip.hbm_gib", "chip.hbm_tb_per_s", "chip.peak_tflops.bfloat16", "chip.peak_tflops.int8"]
    assert paths[-1] == "server.sync"


def test_a_figure_is_replaced_by_its_path_and_nothing_else(cluster):
    changed = cluster.with_figure("server.sync", Figure(0.5, ELSEWHERE))
    before, after = dict(cluster.figures), dict(changed.figures)
    assert after.pop("server.sync") == Figure(0.5, ELSEWHERE)
    assert before.pop("server.sync").value == 0.8
    assert after == before


def test_a_figure_three_levels_down_is_replaced(cluster):
    changed = cluster.with_figure("chip.peak_tflops.bfloat16", Figure(300, ELSEWHERE))
    assert changed.chip.peak("bfloat16") == changed.chip.peak("float16") == 300


@pytest.mark.parametrize(
    "path", ["server.synch", "sync", "server", "", "chip.peak_tflops.float8", "network.wire_copies"]
)
def test_a_path_of_no_figure_is_refused(cluster, path):
    with pytest.raises(BadInput, match="has no figure"):
        cluster.with_figure(path, Figure(0.5, ELSEWHERE))


def test_a_wrong_path_names_the_right_one(cluster):
    with pytest.raises(BadInput, match=r"did you mean server\.sync\?"):
        cluster.with_figure("server.synch", Figure(0.5, ELSEWHERE))


def test_the_fingerprint_follows_values_and_sources(cluster):
    figure = dict(cluster.figures)["server.sync"]
    assert cluster.with_figure("server.sync", figure).fingerprint == cluster.fingerprint
    others = [Figure(0.81, figure.source), Figure(figure.value, ELSEWHERE)]
    prints = {cluster.with_figure("server.sync", other).fingerprint for other in others}
    assert len(prints | {cluster.fingerprint}) == 3
    assert replace(cluster, name="other").fingerprint != cluster.fingerprint


def test_whole_numbers_and_floats_are_the_same_figure():
    assert Figure(8, ELSEWHERE) == Figure(8.0, ELSEWHERE)
    assert isinstance(Figure(8, ELSEWHERE).value, float)


def test_clusters_can_be_hashed(cluster):
    assert hash(cluster) == hash(read_cluster("a100-80g-efa"))


def test_a_type_without_a_peak_is_refused_with_those_that_have_one(cluster):
    with pytest.raises(BadInput, match=r"no peak for float8 \(it has bfloat16, int8\): add chip.peak_tflops.float8"):
        cluster.chip.peak("float8")


@pytest.mark.parametrize("dtype", ["float3", "", "value", "__init__"])
def test_an_unknown_type_is_refused(cluster, dtype):
    with pytest.raises(BadInput, match="no peak"):
        cluster.chip.peak(dtype)
    assert not cluster.chip.multiplies(dtype)


def test_a_chip_multiplies_what_it_has_a_peak_for(cluster):
    assert [cluster.chip.multiplies(dtype) for dtype in ("bfloat16", "float16", "int8", "float8")] == [True] * 3 + [
        False
    ]


@pytest.mark.parametrize("value", [True, None, "8", 1j, [1]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(BadInput, match="must be a number"):
        Figure(value, ELSEWHERE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e10, 10**5000], ids=lambda _: "huge")
def test_what_is_not_finite_or_huge_is_refused(value):
    with pytest.raises(BadInput, match="finite number"):
        Figure(value, ELSEWHERE)


HALF_AND_THREE: list[Any] = [np.float32(0.5), np.int64(3)]


def test_numbers_of_numpy_become_floats():
    assert [type(Figure(value, ELSEWHERE).value) for value in HALF_AND_THREE] == [float, float]


@pytest.mark.parametrize("source", ["", "  \n", "a\0b", "\ud800", None, 3])
def test_a_source_is_a_line_of_text(source):
    with pytest.raises(BadInput, match="source must be a line"):
        Figure(1, source)


def test_line_breaks_in_a_source_become_spaces():
    assert Figure(1, " two\n lines ").source == "two lines"


COUNTS = {"node.gpus", "network.gpus_per_nic", "server.tensor_parallel"}
PARTS = {
    "chip.expert_efficiency", "chip.dense_efficiency", "chip.streaming_efficiency", "network.efficiency",
    "network.overlap", "server.memory_fraction", "server.sync",
}  # fmt: skip
MAY_BE_ZERO = {"network.all_to_all_latency_ms", "network.overlap", "server.buffer_gib_per_rank", "server.sync"}
PATHS = [path for path, _ in read_cluster("b200-ib").figures]


@pytest.mark.parametrize("path", PATHS)
def test_numbers_out_of_range_are_refused_by_name(path):
    preset = read_cluster("b200-ib")
    wrong = [-1, -1e-9]
    wrong += [] if path in MAY_BE_ZERO else [0]
    wrong += [1.01] if path in PARTS else []
    wrong += [0.5, 1.5] if path in COUNTS else []
    for value in wrong:
        with pytest.raises(BadInput, match=f"{path.split('.')[-1]} must be"):
            preset.with_figure(path, Figure(value, ELSEWHERE))


@pytest.mark.parametrize("path", sorted(MAY_BE_ZERO))
def test_nothing_is_a_value_where_it_makes_sense(path):
    assert dict(read_cluster("b200-ib").with_figure(path, Figure(0, ELSEWHERE)).figures)[path].value == 0


@pytest.mark.parametrize("path", sorted(PARTS))
def test_the_whole_is_a_part(path):
    assert dict(read_cluster("b200-ib").with_figure(path, Figure(1, ELSEWHERE)).figures)[path].value == 1


@pytest.mark.parametrize("path", ["network.gpus_per_nic", "server.tensor_parallel"])
@pytest.mark.parametrize("count", [3, 16])
def test_what_does_not_divide_a_node_is_refused(cluster, path, count):
    with pytest.raises(BadInput, match=rf"{path}: {count} does not divide the 8 GPUs of a node"):
        cluster.with_figure(path, Figure(count, ELSEWHERE))


@pytest.mark.parametrize("copies", ["nodes", "", "Expert", None, 1])
def test_copies_on_the_wire_are_per_expert_or_per_node(copies):
    with pytest.raises(BadInput, match="must be expert or node"):
        WireCopies(copies, ELSEWHERE)


def test_a_bare_number_is_no_figure():
    bare: Any = 8
    with pytest.raises(BadInput, match="gpus must be a Figure"):
        NodeSpec(bare, Figure(300, ELSEWHERE))
    with pytest.raises(BadInput, match="float8 must be a Figure"):
        PeakTflops(Figure(300, ELSEWHERE), bare)


@pytest.mark.parametrize("name", ["", "a\0b", None])
def test_a_cluster_has_a_name(cluster, name):
    with pytest.raises(BadInput, match="name must be a line"):
        replace(cluster, name=name)
