"""Experts with stacked parameters and a forward of their own kind; blocks that are no weighted sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import craftc
from craftc.errors import BadInput
from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.experts import ExpertsModule, find_experts
from craftc.passes.analysis.tracing.stacked import block_of, find_unsure, overlap, parameters_in_blocks
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K, Block, tokens
from tests.passes.analysis.tracing.stacked_styles import (
    RECORDED_STYLES,
    STACKED_STYLES,
    BufferExperts,
    Buffers,
    Counted,
    Loop,
    NormAfter,
    Scored,
)
from tests.passes.analysis.tracing.style_table import build

LAYERS = ["layers.0.experts", "layers.1.experts"]


@pytest.mark.parametrize("style", [*STACKED_STYLES, *RECORDED_STYLES], ids=lambda style: style.__name__)
def test_every_style_is_found_with_the_models_outputs(style):
    model: Any = build(style)
    graph_module, near_misses = trace(model, tokens(2, 16))
    found, missed = find_moe_layers(model, graph_module)
    assert near_misses + missed == ()
    assert [(layer.name, layer.experts) for _, layer in found] == [(name, EXPERTS) for name in LAYERS]
    size = sum(parameter.numel() * 4 for parameter in model.layers[0].experts.parameters()) // EXPERTS
    assert {layer.expert_bytes for _, layer in found} == {size}
    assert {layer.top_k for _, layer in found} == {TOP_K if style in STACKED_STYLES else 1}
    with torch.no_grad():
        for inputs in (tokens(2, 16), tokens(3, 11, seed=5), tokens(1, 2, seed=6)):
            torch.testing.assert_close(graph_module(**inputs), model(**inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("style", [Buffers, Counted, Scored, NormAfter], ids=lambda style: style.__name__)
def test_they_are_optimised_with_copies(style):
    model = build(style)
    done = craftc.optimize(model, tokens(2, 16), craftc.Topology(gpus=4), "50%")
    assert sum(layer.replicas for layer in done.plan.layers) > 0
    with torch.no_grad():
        other = tokens(3, 11, seed=5)
        torch.testing.assert_close(done.model(**other), model(**other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", [Counted, Scored, NormAfter], ids=lambda style: style.__name__)
def test_gradients_are_the_models(style):
    model: Any = build(style)
    graph_module, _ = trace(model, tokens(2, 16))
    inputs = tokens(3, 11, seed=5)
    model(**inputs).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    graph_module(**inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_loads_are_those_of_the_router_not_of_the_buffers():
    model: Any = build(Buffers)
    loads = craftc.profile(model, tokens(2, 16))
    capacity = 2 * 16 * TOP_K // EXPERTS
    counts_E = loads.counts_SLE[0, 0]
    assert counts_E.max() == capacity
    assert counts_E.min() < capacity
    assert counts_E.sum() < 2 * 16 * TOP_K, "dropped tokens are no load"


class Mixes(Block):
    """Experts that see each other's rows: no row-wise map."""

    class Experts(BufferExperts):
        def forward(self, x):
            return super().forward(x) + x.mean(0)

    def __init__(self) -> None:
        super().__init__()
        self.experts: Any = self.Experts()

    combine = Buffers.combine
    run = Buffers.run


def test_experts_that_mix_rows_are_refused():
    _, near_misses = trace(build(Mixes), tokens(2, 16))
    assert [miss.name for miss in near_misses] == LAYERS
    assert "do not map every row by itself" in near_misses[0].reason


def test_what_only_could_be_experts_is_not_reported():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Buffers()
            self.other = Relations()

        def forward(self, x):
            return self.other(self.block(x))

    class Mixing(BufferExperts):
        """A matrix for every relation."""

    class Relations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(HIDDEN, EXPERTS)
            self.mixing = Mixing()

        def forward(self, x):
            return self.mixing(x[None].expand(EXPERTS, -1, -1)).mean(0)

    model = Model().eval()
    found = find_unsure(model, *find_experts(model))
    assert [module.path for module in found] == ["block.experts", "other.mixing"]
    graph_module, near_misses = trace(model, {"x": tokens(7)["x"]})
    assert near_misses == ()
    assert [layer.name for _, layer in find_moe_layers(model, graph_module)[0]] == ["block.experts"]


def test_stacked_modules_need_a_router_and_own_parameters():
    alone = nn.Module()
    alone.experts = BufferExperts()
    assert find_unsure(alone, (), ()) == ()
    convolution = nn.Module()
    convolution.router, convolution.experts = nn.Linear(4, 2), nn.Sequential(nn.Conv1d(4, 2, 3))
    assert find_unsure(convolution, (), ()) == ()
    beside = nn.Module()
    beside.router, beside.experts = nn.Linear(HIDDEN, EXPERTS), BufferExperts()
    assert find_unsure(beside, (), ()) == (ExpertsModule("experts", "stacked", EXPERTS),)
    assert find_unsure(beside, (ExpertsModule("other", "fused", 2),), ()) == (), "its block has experts already"


class MoreChoices(Loop):
    """A router with two outputs more than there are experts: a copy of the token, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS + 2)

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            if number <= EXPERTS:
                out[rows] += (self.experts[number](flat[rows]) if number < EXPERTS else flat[rows]) * weights[
                    rows, ranks, None
                ]
        return out


def test_a_router_may_have_more_outputs_than_there_are_experts():
    model: Any = build(MoreChoices)
    graph_module, near_misses = trace(model, tokens(2, 16))
    assert near_misses == ()
    assert [layer.name for _, layer in find_moe_layers(model, graph_module)[0]] == LAYERS
    with torch.no_grad():
        torch.testing.assert_close(graph_module(**tokens(3, 11)), model(**tokens(3, 11)), rtol=1e-5, atol=1e-6)
    done = craftc.optimize(model, tokens(2, 16), craftc.Topology(gpus=4), "50%")
    prepared: Any = craftc.prepare(build(MoreChoices), done.plan, inputs=tokens(2, 16))
    with torch.no_grad():
        torch.testing.assert_close(prepared(**tokens(3, 11)), model(**tokens(3, 11)), rtol=1e-5, atol=1e-6)


class Average(Block):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, 2)

    def forward(self, x):
        return sum(expert(x) for expert in self.experts) / EXPERTS


def test_a_list_without_a_router_is_reported():
    _, near_misses = trace(build(Average), tokens(2, 16))
    assert [miss.name for miss in near_misses] == LAYERS
    assert "no router next to it: no parameter with a dim of 6" in near_misses[0].reason
    assert "all 6 experts get every token" in near_misses[0].reason


class InParts(nn.Module):
    """Two lists, each with one matrix of every expert."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS)
        self.up = nn.ModuleList(nn.Linear(HIDDEN, 12) for _ in range(EXPERTS))
        self.down = nn.ModuleList(nn.Linear(12, HIDDEN) for _ in range(EXPERTS))

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        weights, chosen = self.router(flat).softmax(-1).topk(TOP_K, dim=-1)
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            out[rows] += self.down[number](self.up[number](flat[rows]).relu()) * weights[rows, ranks, None]
        return out.view_as(x)


def test_experts_in_two_lists_are_reported_with_what_to_do():
    _, near_misses = trace(build(InParts), tokens(2, 16))
    reasons = {miss.name: miss.reason for miss in near_misses}
    assert reasons["layers.0.up"] == "its experts map 8 features to 12; the experts ABI needs as many out as in"
    assert "also calls layers.0.up: if both are parts of the same experts, put each" in reasons["layers.0.down"]


class InTheBlock(nn.Module):
    """gpt-oss' reference: the experts' weights beside the router's."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 12, HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, 12))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(TOP_K, dim=-1)
        inner = torch.einsum("bth,btkfh->btkf", x, self.up[chosen]).relu()
        return torch.einsum("btkf,btkhf,btk->bth", inner, self.down[chosen], weights)


def test_parameters_in_the_block_are_reported_with_what_to_do():
    model = build(InTheBlock)
    with pytest.raises(BadInput, match=r"up \[6, 12, 8\], down \[6, 8, 12\]\), beside its router: move them into"):
        craftc.optimize(model, tokens(2, 16), craftc.Topology(gpus=2), "50%")
    assert parameters_in_blocks(model, {"layers.0"}) == parameters_in_blocks(model, ())[1:]


@pytest.mark.parametrize("style", [Counted, NormAfter, Buffers], ids=lambda style: style.__name__)
def test_they_are_prepared_in_place(style):
    done = craftc.optimize(build(style), tokens(2, 16), craftc.Topology(gpus=4), "50%")
    model = build(style)
    prepared: Any = craftc.prepare(build(style), done.plan, inputs=tokens(2, 16))
    with torch.no_grad():
        torch.testing.assert_close(prepared(**tokens(3, 11)), model(**tokens(3, 11)), rtol=1e-5, atol=1e-5)


def test_preparing_stacked_experts_needs_a_call():
    done = craftc.optimize(build(Counted), tokens(2, 16), craftc.Topology(gpus=4), "50%")
    with pytest.raises(BadInput, match=r"not called with the experts ABI's arguments.*prepare\(\.\.\., inputs"):
        craftc.prepare(build(Counted), done.plan)


class Masked(nn.Module):
    """A block that is recorded, in a model with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.moe = NormAfter()

    def forward(self, x, attention_mask):
        return self.moe(x) * attention_mask[..., None]


def test_rows_that_are_recorded_are_all_counted_whatever_the_mask():
    inputs = {**tokens(2, 16), "attention_mask": torch.ones(2, 16).tril().long()}
    torch.manual_seed(0)
    loads = craftc.profile(Masked().eval(), inputs)
    assert loads.counts_SLE.sum() == 2 * 16 * TOP_K


def test_paths():
    model = nn.Module()
    model.groups = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])
    assert block_of(model, "groups.0.0") == ""
    assert overlap("a.b", "a")
    assert overlap("", "a")
    assert not overlap("a.b", "a.bc")
