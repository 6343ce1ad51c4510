"""Experts with stacked parameters and a forward of their own kind; blocks that are no weighted sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import craftc
from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.experts import ExpertsModule, find_experts
from craftc.passes.analysis.tracing.stacked import block_of, find_stacked, overlap
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K, Block, tokens
from tests.passes.analysis.tracing.stacked_styles import (
    RECORDED_STYLES,
    STACKED_STYLES,
    BufferExperts,
    Buffers,
    Counted,
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

    combine = Buffers.combine  # type: ignore[assignment]
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
    found = find_stacked(model, find_experts(model)[0])
    assert [module.path for module in found] == ["block.experts", "other.mixing"]
    graph_module, near_misses = trace(model, {"x": tokens(7)["x"]})
    assert near_misses == ()
    assert [layer.name for _, layer in find_moe_layers(model, graph_module)[0]] == ["block.experts"]


def test_stacked_modules_need_a_router_and_own_parameters():
    alone = nn.Module()
    alone.experts = BufferExperts()
    assert find_stacked(alone, ()) == ()
    convolution = nn.Module()
    convolution.router, convolution.experts = nn.Linear(4, 2), nn.Sequential(nn.Conv1d(4, 2, 3))
    assert find_stacked(convolution, ()) == ()
    beside = nn.Module()
    beside.router, beside.experts = nn.Linear(HIDDEN, EXPERTS), BufferExperts()
    assert find_stacked(beside, ()) == (ExpertsModule("experts", "stacked", EXPERTS),)
    assert find_stacked(beside, (ExpertsModule("other", "fused", 2),)) == (), "its block has experts already"


def test_paths():
    model = nn.Module()
    model.groups = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])
    assert block_of(model, "groups.0.0") == ""
    assert overlap("a.b", "a")
    assert overlap("", "a")
    assert not overlap("a.b", "a.bc")
