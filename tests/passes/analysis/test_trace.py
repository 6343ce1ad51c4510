"""The trace pass: every family bit-equal on other shapes, hand-written models, and what users get wrong."""

from __future__ import annotations

import copy
import pickle
import sys

import pytest
import torch
from torch import fx, nn

from craftc.errors import BadInput, Unsupported
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes import pipelines
from craftc.passes.analysis.find_moe_layers import experts_nodes
from craftc.passes.analysis.trace import Trace, call_model, trace
from craftc.passes.base import PassContractError, run_checked
from craftc.passes.compilation import Compilation
from examples.plain_moe import model as plain_moe
from tests.model_families import FAMILIES, build_family, example_inputs


def outputs_equal(graph_module: fx.GraphModule, model: nn.Module, inputs) -> bool:
    with torch.no_grad():
        return torch.equal(graph_module(**inputs), call_model(model, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_bit_equal_on_other_shapes_and_with_padding(family):
    model, inputs = build_family(family)
    graph_module, _ = trace(model, inputs)
    for other in (
        inputs,
        example_inputs(batch=3, tokens=11, seed=1),
        example_inputs(batch=1, tokens=1, seed=2),
        example_inputs(batch=2, tokens=9, seed=3, padding=4),
    ):
        assert outputs_equal(graph_module, model, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_traces_without_an_attention_mask_too(family):
    model, inputs = build_family(family)
    graph_module, _ = trace(model, {"input_ids": inputs["input_ids"]})
    assert [node.target for node in graph_module.graph.nodes if node.op == "placeholder"] == ["input_ids"]
    assert outputs_equal(graph_module, model, {"input_ids": example_inputs(batch=3, tokens=5)["input_ids"]})


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.experts_abi])
def test_experts_and_routers_are_single_nodes_with_the_abis_arguments(family):
    model, inputs = build_family(family)
    graph_module, layers = analysed(model, inputs)
    assert [layer.index for layer in layers] == list(FAMILIES[family].layers)
    for node, layer in experts_nodes(graph_module):
        hidden, indices, weights = (value.meta["val"] for value in node.all_input_nodes)
        assert node.args == tuple(node.all_input_nodes)
        assert hidden.shape == (14, 32)
        assert indices.shape == weights.shape == (14, 2)
        assert indices.dtype == torch.int64
        assert graph_module.get_submodule(layer.name) is model.get_submodule(layer.name)
        assert any(other.target == layer.router for other in graph_module.graph.nodes)


def test_the_model_and_its_source_files_are_as_before():
    model, inputs = build_family("mixtral")
    builders = {name: value for name, value in vars(model_source(model)).items() if name.startswith("create_")}
    modules = dict(model.named_modules())
    call, getattr_ = nn.Module.__call__, nn.Module.__getattr__
    zeros = torch.zeros
    trace(model, inputs)
    assert builders == {name: value for name, value in vars(model_source(model)).items() if name.startswith("create_")}
    assert modules == dict(model.named_modules())
    assert (nn.Module.__call__, nn.Module.__getattr__, torch.zeros) == (call, getattr_, zeros)


def analysed(model: nn.Module, inputs) -> tuple[fx.GraphModule, tuple[MoELayer, ...]]:
    found = pipelines.analysed(model, WorkloadInputs(inputs))
    return found.graph, found.layers


def model_source(model: nn.Module):
    return sys.modules[type(model).__module__]


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v3"])
def test_the_graph_pickles_and_copies(family):
    model, inputs = build_family(family)
    graph_module, _ = trace(model, inputs)
    for twin in (pickle.loads(pickle.dumps(graph_module)), copy.deepcopy(graph_module)):
        assert outputs_equal(twin, model, example_inputs(batch=3, tokens=4))


def test_gradients_are_those_of_the_original():
    model, inputs = build_family("qwen3_moe")
    graph_module, _ = trace(model, inputs)
    gate_up = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    expected = torch.autograd.grad(call_model(model, inputs).square().sum(), gate_up)[0]
    actual = torch.autograd.grad(graph_module(**inputs).square().sum(), gate_up)[0]
    assert torch.equal(actual, expected)
    assert bool((actual != 0).any())


def test_bfloat16_is_bit_equal_too():
    model = FAMILIES["mixtral"].build(dtype=torch.bfloat16)
    graph_module, _ = trace(model, example_inputs())
    assert outputs_equal(graph_module, model, example_inputs(batch=1, tokens=5))


def test_the_meta_device_gives_the_same_graph_and_layers():
    model, inputs = build_family("deepseek_v3")
    real, layers = analysed(model, inputs)
    meta_inputs = {name: value.to("meta") for name, value in inputs.items()}
    meta, meta_layers = analysed(FAMILIES["deepseek_v3"].build().to("meta"), meta_inputs)
    assert meta_layers == layers
    assert [node.target for node in meta.graph.nodes] == [node.target for node in real.graph.nodes]


def test_plain_moe_is_bit_equal_with_one_experts_node_a_layer():
    model = plain_moe.build_model()
    graph_module, near_misses = trace(model, plain_moe.example_inputs())
    assert near_misses == ()
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_module"]
    assert [target for target in targets if "experts" in target] == [
        f"blocks.{block}.mlp.experts" for block in (1, 2, 3)
    ]
    for inputs in plain_moe.calibration_inputs():
        assert outputs_equal(graph_module, model, inputs)
    assert not hasattr(model.get_submodule("blocks.1.mlp.experts"), "num_experts")


def test_llama4_is_traced_around_its_blocks():
    model, inputs = build_family("llama4_text")
    graph_module, near_misses = trace(model, inputs)
    assert near_misses == ()
    targets = [node.target for node in graph_module.graph.nodes]
    assert "model.layers.0.feed_forward.experts" in targets
    assert "model.layers.0.feed_forward.router.weight" in targets


def test_a_bare_moe_block_is_a_model():
    block = plain_moe.MoE(skew=0.5).eval()
    x = torch.randn(2, 3, plain_moe.HIDDEN, generator=torch.Generator().manual_seed(0))
    graph_module, layers = analysed(block, {"x": x})
    assert [(layer.name, layer.index) for layer in layers] == [("experts", 0)]
    assert outputs_equal(graph_module, block, {"x": torch.cat((x, x))})


class Steered(nn.Module):
    """A model with a flag, and a top level whose control flow reads data when `by_data`."""

    def __init__(self, by_data: bool) -> None:
        super().__init__()
        self.block = plain_moe.MoE(skew=0.5)
        self.by_data = by_data

    def forward(self, x, double=False):
        if self.by_data and x.sum() > 1e9:
            x = x - 1
        if x.dim() == 3 and x.dtype != torch.float64 and len(x.shape) == 3:
            x = x * 1.5
        x += 1
        return self.block(2 * x if double else x)


def steered_inputs(batch: int = 2):
    return {"x": torch.ones(batch, 3, plain_moe.HIDDEN), "double": True}


def test_inputs_without_tensors_are_fixed_and_ranks_steer():
    model = Steered(by_data=False).eval()
    graph_module, _ = trace(model, steered_inputs())
    assert [node.target for node in graph_module.graph.nodes if node.op == "placeholder"] == ["x", "double"]
    with torch.no_grad():
        assert torch.equal(graph_module(**steered_inputs(5)), model(**steered_inputs(5)))
        assert torch.equal(graph_module(x=steered_inputs()["x"]), model(**steered_inputs()))


def test_a_top_level_that_reads_data_is_unsupported_in_one_line():
    with pytest.raises(
        Unsupported, match=r"^Steered: its forward cannot be traced: .*depends on what tensors hold.*$"
    ) as caught:
        trace(Steered(by_data=True).eval(), steered_inputs())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "example inputs are empty"),
        ({"x": torch.ones(2)}, r"do not fit forward\(tokens\)"),
        ({"tokens": 3}, "hold no tensor"),
        ({"a b": torch.ones(2)}, "named like forward's arguments, got 'a b'"),
        (
            {"tokens": torch.full((1, 2), 1000)},
            r"PlainMoE cannot run on its example inputs \(tokens \[1, 2\]\): IndexError",
        ),
    ],
)
def test_wrong_example_inputs_give_one_clear_line(inputs, message):
    with pytest.raises(BadInput, match=message) as caught:
        trace(plain_moe.build_model(), inputs)
    assert "\n" not in str(caught.value)


def test_a_model_without_experts_is_refused_before_it_is_run():
    with pytest.raises(BadInput, match="Linear has no MoE layer"):
        trace(nn.Linear(2, 2), {"input": torch.ones(1, 2)})


def test_the_pass_keeps_its_contract():
    model, inputs = build_family("mixtral")
    after = run_checked(Trace(), Compilation(model=model, inputs=WorkloadInputs(inputs)))
    assert after.knows("graph")
    with pytest.raises(PassContractError, match="needs inputs"):
        run_checked(Trace(), Compilation(model=model))
