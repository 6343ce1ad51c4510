"""The layers that a placement file shows by itself: every format that is written is read back without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.manifests.export import export_plan
from craftc.manifests.layers_in_file import layers_in_file
from craftc.manifests.read_placement import read_placement
from craftc.manifests.registry import placement_format, placement_names
from craftc.models.given_sizes import GivenSizes, parse_given_sizes
from tests.plans.sample_plans import toy_plan

NAMES = [name for name in placement_names() if name != "onnx"]
SIZE = GivenSizes(every=1000)


@pytest.mark.parametrize("name", NAMES)
def test_a_placement_is_read_back_without_its_model(name: str, tmp_path: Path) -> None:
    plan, fmt = toy_plan(), placement_format(name)
    path = export_plan(plan, name, tmp_path / f"placement{fmt.suffix or ''}").path
    layers = layers_in_file(path.read_bytes(), name, SIZE)
    read = read_placement(path, name, plan.topology, layers)
    # A row of a dense layer cannot be told from others: SGLang's files have them.
    indices = {"sglang": [0, 1, 2], "trtllm": [1, 2], "csv": [1, 2]}.get(name, [0, 1])
    assert [(layer.index, layer.experts, layer.expert_bytes) for layer in layers] == [
        (index, 4, 1000) for index in indices
    ]
    order = list if fmt.keeps_slot_order else sorted
    assert [[order(gpu) for gpu in layer.placement] for layer in read.layers[-2:]] == [
        [order(gpu) for gpu in layer.placement] for layer in plan.layers
    ]


def test_sizes_may_differ_by_layer(tmp_path: Path) -> None:
    data = export_plan(toy_plan(), "trtllm", tmp_path / "placement").path.read_bytes()
    layers = layers_in_file(data, "trtllm", parse_given_sizes(["1=7B", "layers.2=8B"]))
    assert [layer.expert_bytes for layer in layers] == [7, 8]
    with pytest.raises(BadInput, match=r"gives no size for layer layers\.2"):
        layers_in_file(data, "trtllm", parse_given_sizes(["1=7B"]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"{}", b"[]", b"[[]]", b"layer,index,expert\n", b"\x93NUMPY\x01\x00"])
def test_another_file_is_refused_in_one_line(name: str, data: bytes) -> None:
    with pytest.raises(BadInput, match=rf"^{name} placement: [^\n]+$"):
        layers_in_file(data, name, SIZE)


def test_what_the_file_alone_does_not_say() -> None:
    with pytest.raises(BadInput, match="one list stands for every layer: give --model-config"):
        layers_in_file(b"[0, 1, 2, 3]", "vllm-list", SIZE)
    with pytest.raises(BadInput, match="onnx placement: the file alone does not say"):
        layers_in_file(b"", "onnx", SIZE)
