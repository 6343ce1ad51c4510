"""Modules with stacked parameters behind the experts ABI: any rows, some of the experts, other devices' names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from craftc.runtime.expert_calls import stacked_calls
from craftc.runtime.local_experts import expert_bytes, expert_count, local_experts
from craftc.runtime.stacked_experts import StackedExperts
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K
from tests.passes.analysis.tracing.stacked_styles import BufferExperts, CountedExperts, FlatBuffers, GatheredExperts

CALLS: dict[type[nn.Module], tuple[Any, ...]] = {
    BufferExperts: (torch.randn(EXPERTS, 2, HIDDEN),),
    FlatBuffers.FlatExperts: (torch.randn(EXPERTS * 2, HIDDEN),),
    CountedExperts: (torch.randn(EXPERTS, HIDDEN), torch.ones(EXPERTS, dtype=torch.int64)),
    GatheredExperts: (torch.randn(5, HIDDEN), torch.randint(EXPERTS, (5, TOP_K))),
}
each_kind = pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)


def adapted(kind: type[nn.Module]) -> tuple[Any, StackedExperts]:
    torch.manual_seed(0)
    module = kind()
    calls = stacked_calls(CALLS[kind], module(*CALLS[kind]), EXPERTS)
    assert calls is not None
    return module, StackedExperts(module, calls, EXPERTS)


def routed(tokens: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    index_TK = torch.rand(tokens, EXPERTS, generator=generator).topk(TOP_K).indices
    return torch.randn(tokens, HIDDEN, generator=generator), index_TK, torch.rand(tokens, TOP_K, generator=generator)


@each_kind
def test_rows_get_what_their_expert_makes_of_them_alone(kind):
    module, experts = adapted(kind)
    hidden_TH, index_TK, weight_TK = routed()
    expected_TH = torch.zeros_like(hidden_TH)
    for token, (chosen, weights) in enumerate(zip(index_TK.tolist(), weight_TK, strict=True)):
        for expert, weight in zip(chosen, weights, strict=True):
            alone_EH = hidden_TH[token].expand(EXPERTS, HIDDEN)
            every = torch.arange(EXPERTS)
            output_EH = experts.calls.run(module, alone_EH, every, EXPERTS)
            expected_TH[token] += weight * output_EH[expert]
    torch.testing.assert_close(experts(hidden_TH, index_TK, weight_TK), expected_TH, rtol=1e-5, atol=1e-6)


@each_kind
def test_some_of_the_experts_in_another_order(kind):
    _, experts = adapted(kind)
    chosen = (4, 1, 3)
    local = local_experts(experts, chosen)
    hidden_TH, index_TK, weight_TK = routed()
    local_TK = index_TK % len(chosen)
    expected_TH = experts(hidden_TH, torch.tensor(chosen)[local_TK], weight_TK)
    torch.testing.assert_close(local(hidden_TH, local_TK, weight_TK), expected_TH, rtol=1e-5, atol=1e-6)
    assert expert_count(local) == 3
    assert expert_bytes(local) == expert_bytes(experts)


@each_kind
def test_no_expert_and_no_token(kind):
    _, experts = adapted(kind)
    hidden_TH, index_TK, weight_TK = routed()
    none = torch.full_like(index_TK, EXPERTS)
    assert not experts(hidden_TH, none, weight_TK).any()
    assert experts(hidden_TH[:0], index_TK[:0], weight_TK[:0]).shape == (0, HIDDEN)


@each_kind
def test_tensors_keep_their_names_and_are_the_modules(kind):
    module, experts = adapted(kind)
    own, shared = dict(module.named_parameters()), dict(experts.named_parameters())
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)


def test_a_cast_reaches_the_code_but_not_the_original():
    module, experts = adapted(CountedExperts)
    hidden_TH, index_TK, weight_TK = routed()
    experts._parameters = {name: nn.Parameter(weight.double()) for name, weight in experts.named_parameters()}
    assert experts(hidden_TH.double(), index_TK, weight_TK.double()).dtype == torch.float64
    assert module.up.dtype == torch.float32


def test_experts_in_children_are_selected_too():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_experts = EXPERTS
            self.first, self.second = CountedExperts(), CountedExperts()

        def forward(self, x, counts):
            assert len(counts) == self.n_experts
            return self.second(self.first(x, counts), counts)

    module = Both()
    args = CALLS[CountedExperts]
    calls = stacked_calls(args, module(*args), EXPERTS)
    assert calls is not None
    local = local_experts(StackedExperts(module, calls, EXPERTS), (5, 0))
    hidden_TH, index_TK, weight_TK = routed()
    assert local(hidden_TH, index_TK % 2, weight_TK).shape == hidden_TH.shape
    assert {parameter.shape[0] for parameter in local.parameters()} == {2}
    assert module.n_experts == EXPERTS
