"""Our validator of ONNX's multi-device annotations, which `onnx.checker` does not look at: broken ones are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

onnx = pytest.importorskip("onnx")

from craftc.errors import BadInput  # noqa: E402
from craftc.manifests.format import target_of_plan  # noqa: E402
from craftc.manifests.onnx.annotations import DOMAIN, annotate, placements_of, violations  # noqa: E402
from craftc.manifests.registry import placement_format  # noqa: E402
from tests.manifests.test_fuzz import mutations  # noqa: E402
from tests.plans.sample_plans import toy_plan  # noqa: E402


def annotated_model():
    """A node per layer of the toy plan, with weights `[6, 2, 3]`; the body copies its input."""
    plan, helper = toy_plan(), onnx.helper
    weights = [
        helper.make_tensor(f"w{layer.index}", onnx.TensorProto.FLOAT, [6, 2, 3], [0.0] * 36) for layer in plan.layers
    ]
    nodes = [
        helper.make_node(
            f"Experts_{layer.index}", [f"x{ordinal}", f"w{layer.index}"], [f"x{ordinal + 1}"], domain=DOMAIN
        )
        for ordinal, layer in enumerate(plan.layers)
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x0", "x2")]
    graph = helper.make_graph(nodes, "toy", ends[:1], ends[1:], weights)
    functions = [
        helper.make_function(
            DOMAIN, node.op_type, ["x", "w"], ["y"], [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_opsetid("", 20)],
        )
        for node in nodes
    ]  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=functions, opset_imports=opsets)
    for node, layer in zip(model.graph.node, plan.layers, strict=True):
        annotate(model, node, layer, [f"w{layer.index}"])
    return model


def spec_of(model, node: int = 0):
    return model.graph.node[node].device_configurations[0].sharding_spec[0]


def test_what_we_write_is_sound_passes_the_checker_and_reads_back() -> None:
    model, plan = annotated_model(), toy_plan()
    assert violations(model) == ()
    assert model.ir_version >= 11
    onnx.checker.check_model(model, full_check=True)
    assert list(placements_of(model, 2).values()) == [layer.placement for layer in plan.layers]
    decoded = placement_format("onnx").decode(model.SerializeToString(), target_of_plan(plan))
    assert decoded == tuple(layer.placement for layer in plan.layers)


def test_a_model_without_annotations_has_none_broken() -> None:
    model = annotated_model()
    del model.configuration[:]
    for node in model.graph.node:
        del node.device_configurations[:]
    assert violations(model) == ()
    with pytest.raises(BadInput, match="none of its inputs is sharded"):
        placements_of(model, 2)


def rank_two_weights(model) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([6, 6])
    spec_of(model).sharded_dim[0].axis = 2


BROKEN: list[tuple[Callable, str]] = [
    (lambda model: setattr(model, "ir_version", 10), "model: ir_version 10, annotations need 11 or later"),
    (lambda model: setattr(model.configuration[0], "name", "other"), "configuration 'craftc' is not the model's"),
    (
        lambda model: model.configuration.append(model.configuration[0]),
        "configuration 'craftc': name missing or repeated",
    ),
    (lambda model: setattr(model.configuration[0], "num_devices", 3), "configuration 'craftc': 2 names for 3 devices"),
    (lambda model: setattr(model.configuration[0], "num_devices", 0), "configuration 'craftc': 0 devices"),
    (lambda model: setattr(spec_of(model), "tensor_name", "w9"), "'w9' is no input or output of the node"),
    (lambda model: spec_of(model).device.__setitem__(1, 2), "'w1': device 2 is not in 0..1"),
    (lambda model: spec_of(model).device.__setitem__(1, -1), "'w1': device -1 is not in 0..1"),
    (lambda model: spec_of(model).device.__setitem__(1, 0), "'w1': a device is named twice"),
    (lambda model: spec_of(model).device.append(1), "'w1': 2 shards for 3 devices"),
    (lambda model: spec_of(model).device.__delitem__(slice(None)), "'w1' is on no device"),
    (lambda model: setattr(spec_of(model).sharded_dim[0], "axis", 3), "'w1': axis 3 of a tensor of 3 axes"),
    (rank_two_weights, "'w1': axis 2 of a tensor of 2 axes"),
    (lambda model: spec_of(model).sharded_dim.append(spec_of(model).sharded_dim[0]), "'w1': axis 0 is sharded twice"),
    (lambda model: spec_of(model).sharded_dim[0].ClearField("simple_sharding"), "'w1': axis 0 names no shards"),
    (lambda model: setattr(spec_of(model).sharded_dim[0].simple_sharding[0], "num_shards", 0), "axis 0 has 0 shards"),
    (
        lambda model: setattr(spec_of(model).sharded_dim[0].simple_sharding[0], "num_shards", 4),
        "'w1': axis 0 of 6 does not divide into 4 equal shards",
    ),
    (
        lambda model: setattr(spec_of(model).sharded_dim[0].simple_sharding[0], "dim_value", 8),
        "'w1': axis 0 is 6 long, the annotation says 8",
    ),
    (
        lambda model: model.graph.node[0].device_configurations[0].sharding_spec.append(spec_of(model)),
        "'w1' is sharded twice",
    ),
    (
        lambda model: spec_of(model).index_to_device_group_map.add(key=0, value=[0, 7]),
        "'w1': device 7 is not in 0..1",
    ),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN)
def test_broken_annotations_are_named(break_it: Callable, message: str) -> None:
    model = annotated_model()
    break_it(model)
    assert any(message in found for found in violations(model)), violations(model)
    with pytest.raises(BadInput, match="onnx placement: "):
        placement_format("onnx").decode(model.SerializeToString(), target_of_plan(toy_plan()))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("craftc.expert_of_slots", "[0,1,2,3,0,-1]", "layer 1: expert -1 is not in"),
        ("craftc.expert_of_slots", "[0,1,2,3,0]", "'w1' has no axis 0 of 5 slots"),
        ("craftc.expert_of_slots", "[0,1,2,3,0,0]", "expert 0 is on GPU 1 more than once"),
        ("craftc.expert_of_slots", "{}", "must be a number and"),
        ("craftc.layer_index", "2", "layer 2 already has another node"),
        ("craftc.layer_index", "7", r"annotated layers are \[2, 7\]"),
        ("craftc.layer_index", "", "not JSON"),
    ],
)
def test_metadata_that_disagrees_is_refused(key: str, value: str, message: str) -> None:
    model = annotated_model()
    entry = next(entry for entry in model.graph.node[0].metadata_props if entry.key == key)
    entry.value = value
    with pytest.raises(BadInput, match=message):
        placement_format("onnx").decode(model.SerializeToString(), target_of_plan(toy_plan()))


def test_other_numbers_of_gpus_and_broken_bytes() -> None:
    with pytest.raises(BadInput, match=r"'w1' is on 2 devices, expected 0\.\.2"):
        placements_of(annotated_model(), 3)
    with pytest.raises(BadInput, match="not an ONNX model"):
        placement_format("onnx").decode(b"\xff" * 40, target_of_plan(toy_plan()))


def test_broken_bytes_get_one_line_or_a_placement() -> None:
    target = target_of_plan(toy_plan())
    outcomes = set()
    for changed in mutations(annotated_model().SerializeToString(), seed=7):
        try:
            placements = placement_format("onnx").decode(changed, target)
        except BadInput as error:
            outcomes.add("refused" if "\n" not in str(error) else "several lines")
        else:
            outcomes.add("read")
            assert all(set().union(*placement) == {0, 1, 2, 3} for placement in placements)
    assert outcomes <= {"read", "refused"}
    assert "refused" in outcomes
