"""Exported models: they pass onnx.checker, run in onnxruntime, equal PyTorch, and their annotations are the plan."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from craftc.errors import BadInput, Refused, Unsupported  # noqa: E402
from craftc.manifests.export import export_plan  # noqa: E402
from craftc.manifests.onnx.annotations import violations  # noqa: E402
from craftc.manifests.read_placement import read_placement  # noqa: E402
from craftc.models.model_file import load_model_source  # noqa: E402
from craftc.models.moe_layer import MoELayer  # noqa: E402
from craftc.models.workload import WorkloadInputs  # noqa: E402
from craftc.passes.pipelines import analysed  # noqa: E402
from tests.model_families import FAMILIES, VOCABULARY  # noqa: E402
from tests.places import ROOT  # noqa: E402
from tests.plans.sample_plans import plan_of, random_placement, toy_plan, uneven_plan  # noqa: E402

GPUS = 2


def layers_of(model: torch.nn.Module, example: dict) -> tuple[MoELayer, ...]:
    return analysed(model, WorkloadInputs(example)).layers


def check_export(model: torch.nn.Module, example: dict, other: dict, folder: Path) -> None:
    """Export with another number of slots in every layer; compare outputs on `example` and on inputs of other sizes."""
    layers = layers_of(model, example)
    seed = random.Random(0)
    slots = [layers[0].experts + GPUS * (ordinal + 1) for ordinal in range(len(layers))]
    plan = plan_of([random_placement(seed, layers[0].experts, GPUS, count) for count in slots], layers)
    path = folder / "model.onnx"
    export_plan(plan, "onnx", path, model=model, example=example)

    exported = onnx.load(path)
    onnx.checker.check_model(exported, full_check=True)
    assert violations(exported) == ()
    nodes = [node for node in exported.graph.node if node.domain == "craftc"]
    assert [node.op_type for node in nodes] == [f"ReplicatedExperts_{layer.index}" for layer in layers]
    assert {function.name for function in exported.functions} >= {node.op_type for node in nodes}
    assert "craftc.plan" in {entry.key for entry in exported.metadata_props}
    sizes = {initializer.name: list(initializer.dims) for initializer in exported.graph.initializer}
    for node, count in zip(nodes, slots, strict=True):
        assert {sizes[name][0] for name in node.input[3:]} == {count}

    read = read_placement(path, "onnx", plan.topology, layers)
    assert [layer.placement for layer in read.layers] == [layer.placement for layer in plan.layers]
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for inputs in (example, other):
        with torch.no_grad():
            expected = model(**inputs)
        expected = expected if isinstance(expected, torch.Tensor) else expected.logits
        given = {argument.name: inputs[argument.name].numpy() for argument in session.get_inputs()}
        np.testing.assert_allclose(session.run(None, given)[0], expected.numpy(), atol=2e-5, rtol=1e-4)


def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(batch))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_fused_model(tmp_path: Path) -> None:
    family = FAMILIES["gpt_oss"]  # of all families the one with the most to lose: biases, clamps, transposed weights
    options = family.options | {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    check_export(replace(family, options=options).build(), tokens(2, 7), tokens(3, 11), tmp_path)


def test_a_model_with_a_module_per_expert(tmp_path: Path) -> None:
    source = load_model_source(str(ROOT / "examples" / "plain_moe" / "model.py"))
    inputs = source.inputs.example
    check_export(source.model, inputs, {name: torch.cat([value, value]) for name, value in inputs.items()}, tmp_path)


def test_uneven_layers_and_missing_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="onnx needs the same number of slots on every GPU of a layer; this plan"):
        export_plan(uneven_plan(), "onnx", tmp_path / "m.onnx")
    with pytest.raises(BadInput, match="the model is written with the plan"):
        export_plan(toy_plan(), "onnx", tmp_path / "m.onnx")


def test_a_model_larger_than_a_file_may_be_is_refused_before_any_work(tmp_path: Path) -> None:
    layers = tuple(MoELayer(f"layers.{index}", index, 4, 2**29) for index in (1, 2))
    plan = plan_of([layer.placement for layer in toy_plan().layers], layers)
    with pytest.raises(Unsupported, match="one ONNX file holds at most"):
        export_plan(plan, "onnx", tmp_path / "m.onnx", model=torch.nn.Identity(), example={"x": torch.ones(1)})
    assert not list(tmp_path.iterdir())
