"""Hand-written dispatch styles: each is fused into one experts node, or reported with what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.trace import call_model, trace
from tests.passes.analysis.tracing.dispatch_styles import (
    EXPERTS,
    HIDDEN,
    STYLES,
    TOP_K,
    Block,
    Running,
    SkipsEmpty,
    SwitchTopOne,
    WhereIndexAdd,
    build,
    tokens,
)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_every_style_becomes_one_experts_node_with_the_models_outputs(style):
    model = build(style)
    graph_module, near_misses = trace(model, tokens(2, 5))
    found, missed = find_moe_layers(model, graph_module)
    assert near_misses + missed == ()
    assert [layer.name for _, layer in found] == ["layers.0.experts", "layers.1.experts"]
    assert {layer.top_k for _, layer in found} == {1 if style is SwitchTopOne else TOP_K}
    with torch.no_grad():
        for inputs in (tokens(2, 5), tokens(1, 1), tokens(3, 40)):
            torch.testing.assert_close(graph_module(**inputs), call_model(model, inputs), rtol=1e-5, atol=1e-6)


def reason_of(block: type[Block]) -> str:
    """Why the layers of a model of `block` are near misses; its outputs must be the original's all the same."""
    model = build(block)
    graph_module, near_misses = trace(model, tokens(2, 5))
    assert find_moe_layers(model, graph_module) == ((), ())
    assert [miss.name for miss in near_misses] == ["layers.0.experts", "layers.1.experts"]
    with torch.no_grad():
        for inputs in (tokens(2, 5), tokens(3, 40)):
            assert torch.equal(graph_module(**inputs), call_model(model, inputs))
    assert "\n" not in near_misses[0].reason
    return near_misses[0].reason


class LoopsOverCounts(Block):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out.index_add_(0, rows, self.experts[number](flat[rows]) * weights[rows, ranks, None])
        return out


class PunishesEmpty(SkipsEmpty):
    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mask = (chosen == number).any(dim=-1)
            if mask.any():
                scale = (weights * (chosen == number)).sum(-1)[mask]
                out[mask] += expert(flat[mask]) * scale.unsqueeze(1)
            else:
                out -= 1.0
        return out


class LargestOutput(Block):
    def combine(self, flat, chosen, weights):
        outputs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        picked = outputs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, HIDDEN))
        return (picked * weights.unsqueeze(-1)).amax(dim=1)


class NoIndices(Block):
    def combine(self, flat, chosen, weights):
        gates = self.router(flat).softmax(-1)
        return sum(expert(flat) * gates[:, number, None] for number, expert in enumerate(self.experts))


class CallsTheFirstTwice(Running):
    def combine(self, flat, chosen, weights):
        return super().combine(flat, chosen, weights) + self.experts[0](flat)


class ReadsAGate(Block):
    """Reads a value made for one expert once more, after the sum."""

    def combine(self, flat, chosen, weights):
        gates = [(weights * (chosen == number)).sum(-1, keepdim=True) for number in range(EXPERTS)]
        total = 0
        for expert, gate in zip(self.experts, gates, strict=True):
            total = total + expert(flat) * gate
        return total * (1 + gates[0])


class OverwritesItsInput(Block):
    def combine(self, flat, chosen, weights):
        weights *= 1.0
        for number, expert in enumerate(self.experts):
            rows, ranks = torch.where(chosen == number)
            flat[rows] = expert(flat[rows]) * weights[rows, ranks, None]
        return flat


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        (LargestOutput, "its block's output is not a weighted sum of its experts' outputs plus a rest "),
        (NoIndices, "all 6 experts get every token: it has no routing that could be balanced"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_fused_is_reported_and_runs_as_it_was(style, reason):
    assert reason in reason_of(style)


@pytest.mark.parametrize("style", [LoopsOverCounts, PunishesEmpty, CallsTheFirstTwice, ReadsAGate])
def test_what_cannot_be_fused_is_read_from_the_blocks_own_code(style):
    model = build(style)
    graph_module, near_misses = trace(model, tokens(2, 5))
    found, missed = find_moe_layers(model, graph_module)
    assert near_misses + missed == ()
    assert [layer.name for _, layer in found] == ["layers.0.experts", "layers.1.experts"]
    with torch.no_grad():
        for inputs in (tokens(2, 5), tokens(1, 1), tokens(3, 40)):
            torch.testing.assert_close(graph_module(**inputs), call_model(model, inputs), rtol=1e-5, atol=1e-6)


def test_a_block_that_overwrites_its_input_is_not_fused():
    model = build(OverwritesItsInput)
    graph_module, near_misses = trace(model, tokens(2, 5))
    assert find_moe_layers(model, graph_module) == ((), ())
    assert len(near_misses) == 2


class Widens(nn.Module):
    """Experts that map to another width."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(HIDDEN, 3) for _ in range(EXPERTS))

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(TOP_K, dim=-1)
        gates = [torch.where(chosen == number, weights, 0.0).sum(-1, keepdim=True) for number in range(EXPERTS)]
        return sum(expert(x) * gate for expert, gate in zip(self.experts, gates, strict=True))


def test_experts_of_another_width_are_reported_with_both_widths():
    model = Widens().eval()
    _, (miss,) = trace(model, {"x": torch.randn(4, HIDDEN)})
    assert miss.reason == "its experts map 8 features to 3; the experts ABI needs as many out as in"


class Chain(nn.Module):
    """A stack of alike layers, beside a parameter with a dim of their number: no experts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(HIDDEN, EXPERTS)
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(EXPERTS))
        self.moe = WhereIndexAdd()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x + self.moe(x))


def test_a_chain_of_alike_layers_is_left_alone():
    model = Chain().eval()
    graph_module, near_misses = trace(model, {"x": torch.randn(4, HIDDEN)})
    found, missed = find_moe_layers(model, graph_module)
    assert [layer.name for _, layer in found] == ["moe.experts"]
    assert near_misses + missed == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_fused_too(dtype):
    model = build(WhereIndexAdd).to(dtype)
    inputs = {"x": tokens(2, 5)["x"].to(dtype)}
    graph_module, near_misses = trace(model, inputs)
    assert near_misses == ()
    with torch.no_grad():
        torch.testing.assert_close(graph_module(**inputs), model(**inputs))


def test_experts_modules_are_the_models_own_and_keep_their_mode():
    model: Any = build(WhereIndexAdd)
    model.layers[0].experts[0].train()
    graph_module, _ = trace(model, tokens(2, 5))
    fused: Any = graph_module.get_submodule("layers.0.experts")
    assert list(fused.experts) == list(model.layers[0].experts)
    assert [expert.training for expert in fused.experts] == [True] + [False] * (EXPERTS - 1)
    assert not fused.training
