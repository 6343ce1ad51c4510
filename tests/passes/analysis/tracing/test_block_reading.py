"""Blocks that cannot be read are near misses with the true reason, and run as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.analysis.trace import trace
from craftc.passes.pipelines import profiled
from tests.passes.analysis.tracing.block_styles import DispatchAbove
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, Block, Expert, tokens
from tests.passes.analysis.tracing.handwritten_styles import TopP, UniqueLoop
from tests.passes.analysis.tracing.style_table import build


class ByPosition(nn.Module):
    """Routed by position: no router decides."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.rand(EXPERTS))
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        chosen = torch.arange(len(flat)) % EXPERTS
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            out[chosen == number] = self.experts[number](flat[chosen == number])
        return out.view_as(x)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1)

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Convolutions(Block):
    """Experts that mix the tokens of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Convolution() for _ in range(EXPERTS))

    def forward(self, x):
        chosen = self.router(x.mean(1)).argmax(-1).tolist()
        return torch.cat([self.experts[number](x[row : row + 1]) for row, number in enumerate(chosen)])


class Everybody(Block):
    """Softly mixed: every expert has a part in every token."""

    def forward(self, x):
        gates = self.router(x).softmax(-1)
        if gates.sum().item() < 0:
            return x
        return sum(expert(x) * gates[..., number, None] for number, expert in enumerate(self.experts))


class OverwritesArguments(UniqueLoop):
    def forward(self, x):
        out = super().forward(x)
        return x.add_(out)


class ReadsWeights(Block):
    """Uses an expert's weights without calling it."""

    def combine(self, flat, chosen, weights):
        out = torch.zeros_like(flat)
        for number in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == number)
            expert = self.experts[number]
            output = flat[rows] @ expert.up.weight.t() @ expert.down.weight.t()
            out.index_add_(0, rows, output * weights[rows, ranks, None])
        return out


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        (ByPosition, "its block's routing is the same whatever its tokens are"),
        (Convolutions, "its experts do not run on rows of tokens that are taken out of their context: "),
        (Everybody, "all 6 experts get every token: it has no routing that could be balanced"),
        (OverwritesArguments, "its block writes in place into its own arguments"),
        (ReadsWeights, "none of its experts is called in a forward on the example inputs"),
    ],
)
def test_what_cannot_be_read(style, reason):
    model = build(style)
    expected = model(**tokens(2, 16))
    graph_module, near_misses = trace(model, tokens(2, 16))
    assert find_moe_layers(model, graph_module) == ((), ())
    assert [miss.name for miss in near_misses] == ["layers.0.experts", "layers.1.experts"]
    assert near_misses[0].reason.startswith(reason)
    torch.testing.assert_close(graph_module(**tokens(2, 16)), expected)


def test_tokens_are_counted_where_they_are_dispatched_and_not_by_places_in_buffers():
    model, inputs = build(DispatchAbove), WorkloadInputs(tokens(2, 16))
    counts_LE = profiled(model, inputs, ProfileLoads()).loads.counts_SLE[0]
    assert len(set(counts_LE[0].tolist())) > 1, "places are as many for every expert"
    assert (counts_LE.sum(1) <= 32).all(), "a token has one expert, or is dropped"


def test_a_token_counts_for_each_expert_that_it_has():
    model, inputs = build(TopP), WorkloadInputs(tokens(2, 16))
    seen: list[int] = []
    for number, expert in enumerate(model.layers[0].experts):  # type: ignore[index,union-attr]
        expert.register_forward_hook(lambda _, args, output, number=number: seen.extend([number] * len(args[0])))
    model(**inputs.example)
    expected = [seen.count(number) for number in range(EXPERTS)]
    for expert in model.layers[0].experts:  # type: ignore[index,union-attr]
        expert._forward_hooks.clear()
    assert profiled(model, inputs, ProfileLoads()).loads.counts_SLE[0, 0].tolist() == expected
