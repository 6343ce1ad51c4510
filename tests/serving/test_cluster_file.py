"""Cluster files: round trip, and what is refused, by file and key."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.serving.cluster import (
    Cluster,
    Figure,
    WireCopies,
    preset_names,
    read_cluster,
    write_cluster,
)
from craftc.serving.cluster_file import read_part, written_part

PRESET = Path(__file__).parents[2] / "craftc" / "serving" / "presets" / "h100-ib.yaml"
TEXT = PRESET.read_text()


@pytest.fixture
def file(tmp_path):
    def written(text: str | bytes) -> Path:
        path = tmp_path / "cluster.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_written_and_read_back(name, tmp_path):
    preset = read_cluster(name)
    write_cluster(preset, tmp_path / "own.yaml")
    again = read_cluster(tmp_path / "own.yaml")
    assert again == preset
    assert again.fingerprint == preset.fingerprint


LINES = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=200).filter(
    lambda line: bool(line.split())
)
POSITIVE = st.floats(1e-9, 1e9)
WHOLE = st.integers(1, 10**6)
PARTS = st.floats(1e-9, 1)
NUMBERS = {
    "chip.hbm_gib": POSITIVE,
    "chip.peak_tflops.int8": POSITIVE,
    "chip.dense_efficiency": PARTS,
    "network.all_to_all_latency_ms": st.floats(0, 1e9),
    "network.overlap": st.floats(0, 1),
    "server.buffer_gib_per_rank": WHOLE,
}


@given(st.fixed_dictionaries(NUMBERS), LINES, LINES, st.sampled_from(["expert", "node"]), WHOLE)
@settings(max_examples=40, deadline=None)
def test_any_cluster_reads_back_equal(numbers, name, source, copies, gpus):
    cluster = replace(read_cluster("h100-ib"), name=name)
    cluster = replace(cluster, network=replace(cluster.network, wire_copies=WireCopies(copies, source)))
    for path, value in {**numbers, "node.gpus": gpus}.items():
        cluster = cluster.with_figure(path, Figure(value, source))
    data = written_part(cluster)
    again = read_part(Cluster, data, "cluster")
    assert again == cluster
    assert written_part(again) == data


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_bytes_are_a_cluster_or_refused(data):
    with pytest.raises(BadInput, match=r"^cluster: "):
        read_part(Cluster, data, "cluster")


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_mistyped_file_is_read_or_refused_with_its_name(position, inserted):
    try:
        data = (TEXT[:position] + inserted + TEXT[position + 1 :]).encode()
    except UnicodeEncodeError:
        return
    try:
        read_part(Cluster, data, "cluster")
    except BadInput as error:
        assert str(error).startswith("cluster: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  hbm_gib: ", "  hbm_gb: ", r"chip: unknown key 'hbm_gb'; did you mean hbm_gib\? \(keys: name, hbm_gib"),
        ("node:", "nodes:", r"unknown key 'nodes'; did you mean node\?"),
        ("{value: 80, ", "{values: 80, ", r"chip.hbm_gib: unknown key 'values'; did you mean value\?"),
        ("    float8:", "    fp8:", r"chip.peak_tflops: unknown key 'fp8'"),
        ("    bfloat16: {value: 989, source: x}\n", "", r"chip.peak_tflops: bfloat16 is missing"),
        ("{value: 80, source: x}", "{value: 80}", "chip.hbm_gib: source is missing"),
        ("{value: 80, source: x}", "{source: x}", "chip.hbm_gib: value is missing"),
        ("{value: 80, source: x}", '{value: 80, source: ""}', "chip.hbm_gib: source must be a line of printable text"),
        ("{value: 80, source: x}", "{value: 80, source: 2022}", "chip.hbm_gib.source: expected text, got 2022"),
        ("{value: 80, source: x}", "80", r"chip.hbm_gib: expected the keys value, source, got 80"),
        ("{value: 80, source: x}", "[80, x]", "chip.hbm_gib: expected the keys value, source, got a list"),
        ("{value: 80, ", "{value: true, ", "chip.hbm_gib.value: expected a number, got 'true'"),
        ("{value: 80, ", "{value: .nan, ", "expected a number, got '.nan'"),
        ("{value: 80, ", "{value: .inf, ", "expected a number, got '.inf'"),
        ("{value: 80, ", "{value: 80 GiB, ", "expected a number, got '80 GiB'"),
        ("{value: 80, ", "{value: , ", "expected a number, got ''"),
        ("{value: 80, ", "{value: {}, ", "expected a number, got a mapping"),
        ("{value: 80, ", "{value: 1e999, ", "chip.hbm_gib: value must be a finite number, at most"),
        ("{value: 80, ", "{value: 1_000, ", "expected a number"),
        ("{value: 80, ", "{value: -80, ", "chip: hbm_gib must be above 0"),
        ("{value: 80, ", "{value: 0, ", "chip: hbm_gib must be above 0"),
        ("{value: 80, ", "{value: 80, value: 81, ", "repeated or unreadable key"),
        ("{value: 80, ", "{value: &a 80, ", "anchors, aliases and tags are not read"),
        ("{value: 80, ", "{value: !!float 80, ", "anchors, aliases and tags are not read"),
        ("name: h100-ib", "name: 100", "name: expected text, got 100; put text that looks like a number in quotes"),
        ("name: h100-ib", "name: [h100]", "name: expected text, got a list"),
        ("value: node", "value: nodes", "network.wire_copies: value must be expert or node, got 'nodes'"),
        ("  overlap: {value: 0,", "  overlap: {value: 1.1,", "network: overlap must be between 0 and 1, got 1.1"),
        ("  gpus: {value: 8,", "  gpus: {value: 7.5,", "node: gpus must be a whole number, got 7.5"),
        ("  gpus_per_nic: {value: 1,", "  gpus_per_nic: {value: 3,", "network.gpus_per_nic: 3 does not divide the 8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(file, old, new, message):
    text = _short_sources()
    assert old in text
    path = file(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=message) as refused:
        read_cluster(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("80", "expected the keys name, chip, node, network, server, got 80"),
        ("- name", "got a list"),
        ("{}", r"name is missing \(keys: name, chip, node, network, server\)"),
        ("name: a\n---\nname: b", "more than one document"),
        ("name: [", "not YAML"),
        (b"\xff\xfe", "not a text file"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors, aliases and tags"),
        ("{" * 500, "nested too deeply|unreadable|not YAML"),
        ("1: 2", "unknown key 1"),
        (f"{'k' * 500}: 2", "unknown key 'kkk"),
    ],
)
def test_what_is_no_cluster_file_is_refused(file, content, message):
    with pytest.raises(BadInput, match=message) as refused:
        read_cluster(file(content))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["h100", "", "no/such/file.yaml", "x" * 5000, "a\0b", "."])
def test_a_name_that_is_neither_lists_the_presets(name):
    with pytest.raises(BadInput, match=r"neither a file nor a preset.*\(presets: a100-80g-efa, a100-80g-ib, b200-ib"):
        read_cluster(name)


def test_a_name_that_is_nearly_a_preset_names_it():
    with pytest.raises(BadInput, match=r"did you mean h100-ib\?"):
        read_cluster("h100-ibb")


def test_a_file_is_found_by_text_and_by_path(file):
    path = file(TEXT)
    assert read_cluster(path) == read_cluster(str(path)) == read_cluster("h100-ib") == read_cluster(Path("h100-ib"))


def test_exponents_and_signs_are_numbers(file):
    path = file(TEXT.replace("{value: 80,", "{value: +8.0e+1,", 1))
    assert read_cluster(path).chip.hbm_gib.value == 80


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        write_cluster(read_cluster("h100-ib"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def _short_sources() -> str:
    """The preset with `x` as the source of the figures that tests change."""
    text = TEXT.replace('source: "NVIDIA H100 data sheet, SXM"', "source: x", 1)
    return text.replace('989, source: "NVIDIA H100 data sheet, without sparsity"', "989, source: x", 1)
