"""MoE layers told from structure and dataflow: what they are, and why something is not one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import fx, nn

from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes import pipelines
from craftc.passes.analysis.find_moe_layers import experts_nodes
from craftc.passes.analysis.tracing.model import call_model
from craftc.passes.compilation import NearMiss
from examples.plain_moe import model as plain_moe
from tests.model_families import FAMILIES, build_family, example_inputs

HIDDEN, EXPERTS = 6, 4


class FusedExperts(nn.Module):
    """The experts ABI in the plainest arithmetic."""

    def __init__(self, num_experts: int = EXPERTS) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, HIDDEN))
        self.bias = nn.Parameter(torch.randn(EXPERTS, HIDDEN))

    def forward(self, hidden, index, weights):
        outputs = torch.einsum("th,ehi->tei", hidden, self.up) + self.bias
        gates = torch.zeros(hidden.shape[0], EXPERTS).scatter(1, index, weights)
        return (outputs * gates[..., None]).sum(1)


class MoE(nn.Module):
    """A router that is a bare parameter of the block, and fused experts."""

    def __init__(self, experts: nn.Module | None = None) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(EXPERTS, HIDDEN))
        self.experts: Any = experts or FusedExperts()

    def route(self, x):
        return torch.softmax(x @ self.router.T, dim=-1).topk(2, dim=-1)

    def forward(self, x):
        weights, index = self.route(x)
        return self.experts(x, index, weights)


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def analysed(model: nn.Module, inputs) -> tuple[fx.GraphModule, tuple[MoELayer, ...], tuple[NearMiss, ...]]:
    found = pipelines.analysed(model, WorkloadInputs(inputs))
    return found.graph, found.layers, found.near_misses


def find(model: nn.Module) -> tuple[fx.GraphModule, tuple[MoELayer, ...], tuple[NearMiss, ...]]:
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(0))
    return analysed(model.eval(), {"x": x})


def the_reason(*blocks: nn.Module) -> str:
    """Why the last of `blocks` holds no MoE layer, in a model whose first block has a good one."""
    _, layers, (miss,) = find(Stack(MoE(), *blocks))
    assert [layer.name for layer in layers] == ["blocks.0.experts"]
    assert miss.name == f"blocks.{len(blocks)}.experts"
    return miss.reason


def test_a_layers_facts_come_from_shapes_and_the_graph():
    graph_module, layers, near_misses = find(Stack(nn.Linear(HIDDEN, HIDDEN), MoE()))
    expected = MoELayer("blocks.1.experts", 1, EXPERTS, 4 * (HIDDEN * HIDDEN + HIDDEN), 2, "fused", "blocks.1")
    assert layers == (expected,)
    assert near_misses == ()
    ((node, layer),) = experts_nodes(graph_module)
    assert (node.target, layer) == ("blocks.1.experts", expected)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.experts_abi])
def test_every_family(family):
    model, inputs = build_family(family)
    _, layers, near_misses = analysed(model, inputs)
    expected = FAMILIES[family]
    assert near_misses == ()
    assert tuple(layer.index for layer in layers) == expected.layers
    for layer in layers:
        experts = model.get_submodule(layer.name)
        assert (layer.experts, layer.top_k, layer.layout) == (expected.experts, expected.top_k, "fused")
        assert layer.expert_bytes * layer.experts == 4 * sum(parameter.numel() for parameter in experts.parameters())
        assert layer.router in [f"{layer.name.rpartition('.')[0]}.{name}" for name in ("gate", "router")]


def test_the_plain_example():
    _, layers, _ = analysed(plain_moe.build_model(), plain_moe.example_inputs())
    expert_bytes = 4 * 3 * plain_moe.HIDDEN * 2 * plain_moe.HIDDEN
    assert layers == tuple(
        MoELayer(f"blocks.{block}.mlp.experts", block, 8, expert_bytes, 2, "module_list", f"blocks.{block}.mlp.router")
        for block in (1, 2, 3)
    )


def test_bytes_follow_the_dtype():
    _, layers, _ = analysed(FAMILIES["mixtral"].build(dtype=torch.bfloat16), example_inputs())
    assert {layer.expert_bytes for layer in layers} == {2 * 3 * 32 * 24}


def test_an_experts_module_called_twice():
    shared = MoE()
    _, layers, (miss,) = find(Stack(shared, shared))
    assert layers == ()
    assert (miss.name, miss.reason.partition(";")[0]) == ("blocks.0.experts", "called 2 times in one forward")


class Unused(MoE):
    def forward(self, x):
        return x


def test_an_experts_module_that_is_never_called():
    assert the_reason(Unused()) == "it is never called in a forward on the example inputs"


class ReadsInside(MoE):
    def forward(self, x):
        return super().forward(x) + self.experts.bias.mean()


def test_parameters_read_by_someone_else():
    assert the_reason(ReadsInside()).startswith("its parameters are also read by blocks.1.experts.bias (1 node")


def test_parameters_tied_between_two_layers():
    first, second = MoE(), MoE()
    second.experts.up = first.experts.up
    _, layers, misses = find(Stack(first, second))
    assert layers == ()
    assert misses[0].reason.startswith("its parameters are also read by blocks.1.experts")


class SwappedArguments(MoE):
    def forward(self, x):
        weights, index = self.route(x)
        return self.experts(x, weights, index)


class TakesSwapped(FusedExperts):
    def forward(self, hidden, weights, index):  # type: ignore[override]
        return super().forward(hidden, index, weights)


class FourArguments(MoE):
    def forward(self, x):
        weights, index = self.route(x)
        return self.experts(x, index, weights, 2.0)


class TakesFour(FusedExperts):
    def forward(self, hidden, index, weights, scale):  # type: ignore[override]
        return super().forward(hidden, index, weights) * scale


class TakesTwo(FusedExperts):
    def forward(self, hidden, gates):  # type: ignore[override]
        return (torch.einsum("th,ehi->tei", hidden, self.up) * gates[..., None]).sum(1)


class Dense(MoE):
    def forward(self, x):
        return self.experts(x, torch.softmax(x @ self.router.T, dim=-1))


class WithChild(FusedExperts):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, hidden, index, weights):
        return super().forward(self.norm(hidden), index, weights)


class Reads(MoE):
    """Control flow on data: the block stays a leaf."""

    def forward(self, x):
        weights, index = self.route(x)
        return self.experts(x, index, weights) if index.tolist() else x


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (lambda: SwappedArguments(TakesSwapped()), "second argument must be integer.* indices \\[5, 2\\] float32"),
        (lambda: FourArguments(TakesFour()), "called with 4 positional and 0 keyword arguments"),
        (lambda: Dense(TakesTwo()), "forward takes 2 argument.*hidden, gates.*the experts ABI needs 3"),
        (lambda: MoE(FusedExperts(num_experts=3)), "hold 4 experts .dim 0., its attributes say {'num_experts': 3}"),
        (Reads, "its owner blocks.1 cannot be traced: .*"),
    ],
)
def test_near_misses_name_the_condition_and_the_numbers(block, reason):
    assert re.search(reason, the_reason(block()))


def test_llama4_whose_experts_take_every_token_scaled_is_read_from_its_calls():
    model, inputs = build_family("llama4_text")
    graph_module, layers, misses = analysed(model, inputs)
    assert misses == ()
    assert [layer.name for layer in layers] == [f"model.layers.{block}.feed_forward.experts" for block in range(3)]
    rows: list[int] = []
    experts = graph_module.get_submodule(layers[0].name)
    experts.register_forward_hook(lambda _, args, output: rows.append(len(args[0])))
    with torch.no_grad():
        torch.testing.assert_close(graph_module(**inputs), call_model(model, inputs), rtol=1e-5, atol=1e-6)
    tokens = inputs["input_ids"].numel()
    assert tokens < rows[0] <= tokens + layers[0].experts, "a row per token, and one of zeros per expert"


def test_llama4_without_weights_has_no_layer_craftc_can_handle():
    model, inputs = build_family("llama4_text")
    _, layers, misses = analysed(model.to("meta"), {name: value.to("meta") for name, value in inputs.items()})
    assert layers == ()
    assert all(miss.reason.startswith("forward takes 1 argument(s)") for miss in misses)
    assert len(misses) == 3


def test_children_of_an_experts_module_are_shared_by_all_experts():
    module = WithChild()
    _, found, missed = find(Stack(MoE(module)))
    assert not missed
    assert [layer.expert_bytes for layer in found] == [sum(p[0].numel() * 4 for p in module.parameters(recurse=False))]
