"""Documents written by hand from the servers' own descriptions, good and bad: the reader takes the one and names what
is wrong with the other.
"""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from craftc.errors import BadInput
from craftc.manifests.format import ExportSource, target_of_plan
from craftc.manifests.registry import placement_format
from tests.plans.sample_plans import toy_plan

GOOD = {
    "sglang": '{"physical_to_logical_map": [[0,1,2,3,0,1],[0,1,2,3,0,1],[2,3,0,1,2,3]]}',
    "trtllm": (
        "num_slots: 6\ninitial_global_assignments:\n  1: [0, 1, 2, 3, 0, 1]\n  2: [2, 3, 0, 1, 2, 3]\n"
        "layer_updates_per_iter: 0\n"
    ),
    "vllm-ascend": """{"moe_layer_count": 2,
 "layer_list": [
  {"layer_id": 0, "device_count": 2,
   "device_list": [{"device_id": 0, "device_expert": [0,1,2]}, {"device_id": 1, "device_expert": [3,0,1]}]},
  {"layer_id": 1, "device_count": 2,
   "device_list": [{"device_id": 0, "device_expert": [2,3,0]}, {"device_id": 1, "device_expert": [1,2,3]}]}]}""",
    "vllm": (
        '{"record_type": "eplb_initial_mapping", "version": 1, "num_redundant_experts": 2, "num_slots": 6, '
        '"initial_global_assignments": {"0": [0,1,2,3,0,1], "1": [2,3,0,1,2,3]}}'
    ),
    "vllm-list": "[[0,1,2,3,0,1],[2,3,0,1,2,3]]",
    "csv": (
        "layer,index,expert,copies,gpus,slots\n"
        "layers.1,1,0,2,0 1,0 1\nlayers.1,1,1,2,0 1,1 2\nlayers.1,1,2,1,0,2\nlayers.1,1,3,1,1,0\n"
        "layers.2,2,0,1,0,2\nlayers.2,2,1,1,1,0\nlayers.2,2,2,2,0 1,0 1\nlayers.2,2,3,2,0 1,1 2\n"
    ),
}
OMNI = [[[1, 1, 1, 0], [1, 0, 1, 1]], [[1, 1, 0, 1], [0, 1, 1, 1]]]

BAD = [
    ("sglang", ("{", '{"version": 1, '), "version: unknown key"),
    ("sglang", ("[0,1,2,3,0,1],[2,", "[0,1,2,3,0,1,2],[2,"), "row 1: 7 slots cannot be split evenly over 2 GPUs"),
    ("sglang", (",[2,3,0,1,2,3]", ",[2,3,0,1]"), r"layer 2, GPU 0: 2 slots where the others have 3"),
    ("sglang", (",[2,3,0,1,2,3]", ""), "2 rows for a model of 3 decoder layers"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,1,2,-1]"), "row 2: expert -1 is not in 0..3"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,1,2,4]"), "row 2: expert 4 is not in 0..3"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,2,3,0]"), "row 2: 1 of 4 experts have no copy, the first is 1"),
    ("sglang", ("[[0,1,2,3,0,1]", "[[0,1,2,0,1,2]"), "row 0: 1 of 4 experts have no copy, the first is 3"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,2,1,0,3]"), "row 2: expert 2 is on GPU 0 more than once"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,1,2,3.0]"), r"physical_to_logical_map\.2\.5: Input should be a valid integer"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,true,2,3]"), "Input should be a valid integer"),
    ("sglang", ("[2,3,0,1,2,3]", "[2,3,0,NaN,2,3]"), "NaN is not a number"),
    ("sglang", ("}", ', "physical_to_logical_map": []}'), "'physical_to_logical_map' is given 2 times"),
    ("sglang", ("]]}", "]]"), "not JSON"),
    ("trtllm", ("num_slots: 6", "num_slots: 8"), "layer 1: 6 slots, but num_slots is 8"),
    ("trtllm", ("num_slots: 6", "num_slots: 6\nep_size: 2"), "ep_size: unknown key"),
    ("trtllm", ("  1: [", "  0: ["), "decoder layer 0 is in only one of the two"),
    ("trtllm", ("  1: [0, 1, 2, 3, 0, 1]\n", ""), "1 layers, the model has 2 MoE layers"),
    ("trtllm", ("  1: [", "  2: ["), "repeated or unreadable key"),
    ("trtllm", ("per_iter: 0", "per_iter: 4"), "layer_updates_per_iter"),
    ("trtllm", ("[0, 1, 2, 3, 0, 1]", "&a [0, 1, 2, 3, 0, 1]"), "anchors, aliases and tags are not read"),
    ("trtllm", ("[0, 1, 2, 3, 0, 1]", "[0, 1, 2, 3, 0, !!int 1]"), "anchors, aliases and tags are not read"),
    ("trtllm", ("[0, 1, 2, 3, 0, 1]", "[0, 1, 2, 3, 0, '1']"), "Input should be a valid integer"),
    ("trtllm", ("[0, 1, 2, 3, 0, 1]", "[0, 1, 2, 3, 0, 01]"), "Input should be a valid integer"),
    ("trtllm", ("layer_updates", "---\nlayer_updates"), "more than one document"),
    ("trtllm", ("[0, 1, 2, 3, 0, 1]", "[0, 1, 2, 3, 1, 1]"), "expert 1 is on GPU 1 more than once"),
    (
        "vllm-ascend",
        ('"moe_layer_count": 2', '"moe_layer_count": 3'),
        "moe_layer_count 3, 2 layers listed, 2 MoE layers",
    ),
    ("vllm-ascend", ('"layer_id": 1', '"layer_id": 2'), "layer 1: layer_id, device_count or device_id disagree"),
    ("vllm-ascend", ('"device_id": 1', '"device_id": 0'), "disagree with the order"),
    ("vllm-ascend", ("[3,0,1]", "[3,0,0]"), "layer 0: expert 0 is on GPU 1 more than once"),
    ("vllm-ascend", ("[3,0,1]", "[3,0]"), "layer 0, GPU 1: 2 slots where the others have 3"),
    ("vllm-ascend", ("[3,0,1]", "[2,0,1]"), "layer 0: 1 of 4 experts have no copy, the first is 3"),
    ("vllm", ('"num_redundant_experts": 2', '"num_redundant_experts": 3'), "disagree"),
    ("vllm", ('"num_slots": 6', '"num_slots": 7'), "6 slots, num_slots 7, 4 experts"),
    ("vllm", ('"1": [', '"2": ['), r"expected the MoE ordinals 0\.\.1"),
    ("vllm", ('"version": 1', '"version": 2'), "version: Input should be 1"),
    ("vllm", ("}}", "}}\n{}"), "2 records, expected one line"),
    ("vllm-list", (",[2,3,0,1,2,3]", ""), "1 lists for 2 MoE layers"),
    ("vllm-list", ("[2,3,0,1,2,3]", "[2,3,0,1]"), "layer 1, GPU 0: 2 slots where the others have 3"),
    ("vllm-list", ("[2,3,0,1,2,3]", "7"), "Input should be a valid list"),
    ("csv", ("layer,index", "name,index"), "line 1 must be layer,index,expert,copies,gpus,slots"),
    ("csv", ("layers.1,1,3,1,1,0\n", ""), "GPU 1 has a copy in slot 1, but none in slot 0"),
    ("csv", ("layers.1,1,2,1,0,2\n", ""), "1 of 4 experts have no copy, the first is 2"),
    ("csv", ("layers.1,1,2,1,0,2", "layers.1,1,2,2,0,2"), "line 4: 2 copies, but 1 gpus and 1 slots"),
    ("csv", ("layers.1,1,2,1,0,2", "layers.1,1,2,1,0,1"), "line 4: GPU 0, slot 1 already holds expert 1"),
    ("csv", ("layers.1,1,2,1,0,2", "layers.1,2,2,1,0,2"), "line 4: layer 'layers.1' with index 2 is not a layer"),
    ("csv", ("layers.1,1,2,1,0,2", "layers.1,1,2,1,-1,2"), "line 4: '-1' is not a whole number"),
    ("csv", ("layers.1,1,2,1,0,2", "layers.1,1,2,1,7,0"), r"GPU 7 is not in 0\.\.1"),
]


@pytest.mark.parametrize("name", GOOD)
def test_the_documented_example_is_the_toy_plan(name: str) -> None:
    plan = toy_plan()
    placements = placement_format(name).decode(GOOD[name].encode(), target_of_plan(plan))
    assert placements == tuple(layer.placement for layer in plan.layers)


@pytest.mark.parametrize("name", ["sglang", "vllm", "vllm-ascend", "vllm-list", "trtllm"])
def test_what_is_written_says_the_same_as_the_documented_example(name: str) -> None:
    plan = toy_plan()
    written = placement_format(name).encode(ExportSource(plan, target_of_plan(plan))).decode()
    if name == "trtllm":
        assert written == GOOD[name]
    else:
        assert json.loads(written) == json.loads(GOOD[name])


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_a_wrong_document_gets_one_line(name: str, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD[name]
    document = GOOD[name].replace(*change)
    with pytest.raises(BadInput, match=message) as error:
        placement_format(name).decode(document.encode(), target_of_plan(toy_plan()))
    assert "\n" not in str(error.value)


def test_one_list_for_all_layers_is_read() -> None:
    placements = placement_format("vllm-list").decode(b"[0,1,2,3,0,1]", target_of_plan(toy_plan()))
    assert placements == (((0, 1, 2), (3, 0, 1)),) * 2


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_omni_pattern_is_the_toy_plan_in_ascending_order(dtype: str, order: str) -> None:
    data = npy(np.asarray(np.array(OMNI, dtype=dtype), order=order))  # type: ignore[call-overload]
    placements = placement_format("omni").decode(data, target_of_plan(toy_plan()))
    assert placements == (((0, 1, 2), (0, 1, 3)), ((0, 2, 3), (1, 2, 3)))
    plan = toy_plan()
    assert (
        np.load(io.BytesIO(placement_format("omni").encode(ExportSource(plan, target_of_plan(plan))))).tolist() == OMNI
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(OMNI) * 2, "integers 0 and 1 only"),
        (np.array(OMNI, dtype=float), "integers 0 and 1 only"),
        (np.array(OMNI)[:1], r"shape \[1, 2, 4\], expected \[GPUs, MoE layers, experts\] = \[2, 2, 4\]"),
        (np.array(OMNI) * 0, "4 of 4 experts have no copy"),
        (np.array(OMNI, dtype=object), "bytes of values for object"),
    ],
)
def test_a_wrong_pattern_gets_one_line(array: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        placement_format("omni").decode(npy(array), target_of_plan(toy_plan()))


def test_a_header_that_promises_more_than_there_is_allocates_nothing() -> None:
    data = npy(np.array(OMNI)).replace(b"(2, 2, 4)", b"(2, 2, 9)")
    with pytest.raises(BadInput, match="shape"):
        placement_format("omni").decode(data, target_of_plan(toy_plan()))
    with pytest.raises(BadInput, match="bytes of values"):
        placement_format("omni").decode(npy(np.array(OMNI))[:-1], target_of_plan(toy_plan()))


@pytest.mark.parametrize("name", ["sglang", "trtllm", "vllm", "vllm-list", "vllm-ascend", "omni"])
def test_printed_flags_can_be_copied_whatever_the_path_is(name: str) -> None:
    plan, path = toy_plan(), Path('it\'s a: folder, #1/{placement} "x".json')
    flags = placement_format(name).flags(ExportSource(plan, target_of_plan(plan)), path)
    if name in ("trtllm", "omni"):
        settings = yaml.safe_load("\n".join(flags))
        assert str(path) in (settings.get("pattern_path"), settings.get("moe_config", {}).get("load_balancer"))
        return
    words = shlex.split(" ".join(flags))
    documents = [repr(json.loads(word)) for word in words if word.startswith("{")]
    assert str(path) in words or any(repr(str(path)) in document for document in documents)


def test_an_index_no_model_has_writes_no_rows() -> None:
    plan = toy_plan()
    far = replace(plan, layers=(plan.layers[0], replace(plan.layers[1], index=10**12)))
    with pytest.raises(BadInput, match="expected at most 10000"):
        target_of_plan(far)
