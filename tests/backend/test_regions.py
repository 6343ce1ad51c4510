from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from craftc.backend.regions import Region, find_regions
from craftc.passes.compilation import NearMiss
from tests.backend.captured import Captured, capture
from tests.backend.tiny_moe import EXPERTS, HIDDEN, TOP_K, Experts, TinyMoE, batch


def only_reason(model: nn.Module) -> str:
    (found, *_) = capture(model, batch()).regions[0]
    assert isinstance(found, NearMiss)
    return found.reason


def test_every_layer_is_one_region():
    model = TinyMoE()
    captured = capture(model, batch())
    assert [experts.module for experts in captured.frames[0].experts] == [layer.experts for layer in model.layers]
    for ordinal, region in enumerate(captured.regions[0]):
        assert isinstance(region, Region)
        assert region.experts.name == f"layers.{ordinal}.experts"
        assert [name for name, _ in region.experts.nodes] == ["up", "down"]
        shapes = [
            node.meta["example_value"].shape for node in (region.hidden, region.indices, region.weights, region.output)
        ]
        assert shapes == [(10, HIDDEN), (10, TOP_K), (10, TOP_K), (10, HIDDEN)]


def test_sizes_stay_outside_of_the_region_under_dynamic_shapes():
    torch._dynamo.reset()
    captured = Captured()
    compiled = torch.compile(TinyMoE(), backend=captured, dynamic=True)
    compiled(batch(2, 5))
    for region in captured.regions[0]:
        assert isinstance(region, Region)
        assert not any(isinstance(node.meta["example_value"], torch.SymInt) for node in region.nodes)


class TwoOutputs(Experts):
    def forward(self, hidden, indices, weights):
        output = super().forward(hidden, indices, weights)
        return output, weights.sum(dim=1, keepdim=True)


class ModelUsingBoth(TinyMoE):
    layers: Any

    def forward(self, hidden):
        flat = hidden.view(-1, HIDDEN)
        weights, indices = self.layers[0].gate(flat)
        output, total = self.layers[0].experts(flat, indices, weights)
        return output + total


class ModelReadingWeights(TinyMoE):
    layers: Any

    def forward(self, hidden):
        return super().forward(hidden) + self.layers[0].experts.up.sum()


class ModelCallingTwice(TinyMoE):
    def forward(self, hidden):
        return super().forward(super().forward(hidden))


class DenseExperts(Experts):
    """Every expert computes every token, as Llama 4's do."""

    def forward(self, hidden, indices, weights):
        return torch.bmm(torch.bmm(hidden.expand(EXPERTS, -1, -1), self.up), self.down).sum(dim=0)


class MoreInputs(Experts):
    def forward(self, hidden, indices, weights, scale=None):
        return super().forward(hidden, indices, weights) * scale


class ModelWithScale(TinyMoE):
    layers: Any

    def forward(self, hidden):
        flat = hidden.view(-1, HIDDEN)
        weights, indices = self.layers[0].gate(flat)
        return self.layers[0].experts(flat, indices, weights, flat.mean(dim=1, keepdim=True))


class CheckpointedModel(TinyMoE):
    layers: Any

    def forward(self, hidden):
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False)
        return hidden


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelUsingBoth(TwoOutputs), "exactly one tensor as output; the graph uses 2"),
        (ModelReadingWeights(), "used outside its forward"),
        (ModelCallingTwice(), "called 2 times in one graph"),
        (CheckpointedModel(), "such as activation checkpointing"),
        (TinyMoE(DenseExperts), "must be hidden [T, H], indices [T, K] and weights [T, K], got"),
        (ModelWithScale(MoreInputs), "got "),
    ],
)
def test_what_does_not_match_says_why(model, said):
    assert said in only_reason(model)


def test_a_region_that_needs_its_own_output_is_refused():
    captured = capture(TinyMoE(), batch())
    region = captured.regions[0][0]
    assert isinstance(region, Region)
    graph = region.output.graph
    later = next(iter(region.output.users))
    first = region.nodes[0]
    first.args = (later, *first.args[1:])  # no captured forward looks like this; a broken region finder's would
    (found, *_) = find_regions(graph, [region.experts])
    assert isinstance(found, NearMiss)
    assert "a value made from its own output" in found.reason
