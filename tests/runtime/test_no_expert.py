"""Index E, "no expert": such a pair goes nowhere, adds nothing and is not counted. Axes: T tokens, K experts, H
width."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.copy_choice import copy_choice
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.replicated_experts import ReplicatedExperts, distributed_experts, virtual_experts
from craftc.runtime.slot_table import slot_table
from craftc.runtime.virtual import InTurnDispatcher
from tests.runtime.one_rank import one_rank  # noqa: F401
from tests.runtime.plans import random_layer

EXPERTS, HIDDEN = 8, 4


def experts() -> ModuleListExperts:
    torch.manual_seed(0)
    return ModuleListExperts(nn.Linear(HIDDEN, HIDDEN) for _ in range(EXPERTS))


def some_without(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first token has no expert at all, every third pair of the others none either."""
    generator = torch.Generator().manual_seed(1)
    index_TK = torch.stack([torch.randperm(EXPERTS, generator=generator)[:3] for _ in range(tokens)])
    index_TK.view(-1)[::3] = EXPERTS
    index_TK[0] = EXPERTS
    weight_TK = torch.rand(tokens, 3, generator=generator).masked_fill(index_TK == EXPERTS, 0.0)
    return torch.randn(tokens, HIDDEN, generator=generator), index_TK, weight_TK


def in_turn(module: nn.Module, layer: LayerPlan) -> ReplicatedExperts:
    table = slot_table(layer)
    return ReplicatedExperts(module, copy_choice(layer, 0), InTurnDispatcher(table), table, layer.name)


def shared(layer: LayerPlan) -> LayerPlan:
    """The same with shares of its own."""
    return replace(layer, shares=tuple(tuple(1 / layer.copies_E[expert] for expert in gpu) for gpu in layer.placement))


@pytest.mark.parametrize("build", [virtual_experts, in_turn])
@pytest.mark.parametrize(
    "layer", [random_layer("x", 8, 4, 0), random_layer("x", 8, 4, 6), shared(random_layer("x", 8, 4, 6))]
)
def test_outputs_gradients_and_counts_on_virtual_gpus(build, layer):
    check(build(experts(), layer))


def test_outputs_gradients_and_counts_on_ranks(one_rank):  # noqa: F811
    check(distributed_experts(experts(), random_layer("x", 8, 1, 0), one_rank))


def check(replicated: ReplicatedExperts) -> None:
    results = []
    for module in (experts(), replicated):
        hidden_TH, index_TK, weight_TK = some_without(20)
        hidden_TH.requires_grad_()
        weight_TK.requires_grad_()
        output_TH = module(hidden_TH, index_TK, weight_TK)
        output_TH.square().sum().backward()
        assert weight_TK.grad is not None
        used_TK = torch.where(index_TK < EXPERTS, weight_TK.grad, 0.0)
        results.append([output_TH, hidden_TH.grad, used_TK])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert not results[1][0][0].any(), "a token without experts gets nothing"
    counted = replicated.tokens_per_gpu()
    assert sum(counted.values()) == int((some_without(20)[1] < EXPERTS).sum())


def test_a_call_in_which_no_token_has_an_expert():
    replicated = virtual_experts(experts(), random_layer("x", 8, 4, 6))
    nobody_TK = torch.full((5, 2), EXPERTS)
    assert not replicated(torch.randn(5, HIDDEN), nobody_TK, torch.zeros(5, 2)).any()
    assert sum(replicated.tokens_per_gpu().values()) == 0
