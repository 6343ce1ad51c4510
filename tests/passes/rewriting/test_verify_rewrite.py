from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import craftc
from craftc.errors import BadInput, VerificationFailed
from craftc.models.workload import WorkloadInputs
from craftc.passes.base import run_checked
from craftc.passes.compilation import Compilation, updated
from craftc.passes.rewriting.checking.output_comparison import difference
from craftc.passes.rewriting.rewrite_experts import RewriteExperts
from craftc.passes.rewriting.verify_rewrite import VerifyRewrite
from craftc.runtime.replicated_experts import ReplicatedExperts
from examples.plain_moe.model import HIDDEN, MoE
from tests.model_families import example_inputs
from tests.passes.traced import planned, traced


def test_a_sound_rewrite_passes_and_is_measured(rewritten):
    verification: Any = run_checked(VerifyRewrite(), rewritten).verification
    assert set(verification.max_abs_difference) == {
        "float32",
        "float32, GPU by GPU",
        "bfloat16",
        "bfloat16, GPU by GPU",
    }
    assert verification.max_abs_difference["float32"] == 0
    assert 0 < verification.max_token_deviation < 0.5
    for what, value in verification.max_abs_difference.items():
        assert value <= verification.tolerance[what]


def test_counters_start_anew_afterwards(rewritten):
    run_checked(VerifyRewrite(), rewritten)
    assert all(not module.tokens_C.any() for module in replicated(rewritten))


def test_model_and_graph_keep_their_dtype_and_hooks(rewritten):
    run_checked(VerifyRewrite(), rewritten)
    assert {parameter.dtype for parameter in rewritten.model.parameters()} == {torch.float32}
    assert not any(module._forward_hooks for module in replicated(rewritten))


def test_wrong_outputs_are_refused(rewritten):
    first: Any = replicated(rewritten)[0]
    first.dispatcher.expert_S = first.dispatcher.expert_S.roll(1)  # weights that do not follow the map
    with pytest.raises(VerificationFailed, match=r"float32\): output 0 by .* allowed"):
        run_checked(VerifyRewrite(), rewritten)


def test_what_is_wrong_in_bfloat16_alone_is_refused(rewritten):
    first: Any = replicated(rewritten)[0]
    first.dispatcher = WrongInBfloat16(first.dispatcher)
    with pytest.raises(VerificationFailed, match=r"bfloat16\): output 0 by .* allowed"):
        run_checked(VerifyRewrite(), rewritten)


def test_a_wrong_placement_table_is_seen_gpu_by_gpu(rewritten):
    first: Any = replicated(rewritten)[0]
    table = first.table
    first.table = replace(table, expert_S=(table.expert_S[1], table.expert_S[0], *table.expert_S[2:]))
    with pytest.raises(VerificationFailed, match=rf"GPU by GPU\): layer {first.name}|layer {first.name}: GPU 0"):
        run_checked(VerifyRewrite(), rewritten)


def test_a_choice_that_ignores_the_shares_is_refused(rewritten):
    first: Any = replicated(rewritten)[0]
    first.choice = AlwaysTheFirstCopy(first.table)
    with pytest.raises(VerificationFailed, match=r"GPU \d got [\d,]+ tokens in 3 calls, the plan predicts"):
        run_checked(VerifyRewrite(), rewritten)


def test_infinite_logits_are_equal_and_nan_is_not_an_answer():
    masked = torch.tensor([0.5, float("-inf")])
    assert difference("output 0", masked, masked).value == 0
    assert difference("output 0", torch.tensor([0.5, 0.5]), masked).value == float("inf")
    assert not difference("output 0", torch.full((2,), float("nan")), masked).value <= 1
    with pytest.raises(VerificationFailed, match="output 0 of the original model is NaN"):
        difference("output 0", masked, torch.full((2,), float("nan")))


def test_a_model_without_weights_cannot_be_verified(rewritten):
    with pytest.raises(BadInput, match="on the meta device"):
        run_checked(VerifyRewrite(), updated(rewritten, model=rewritten.model.to("meta")))


class WrongInBfloat16(torch.nn.Module):
    def __init__(self, dispatcher):
        super().__init__()
        self.dispatcher = dispatcher
        self.counted_slots = dispatcher.counted_slots

    def forward(self, experts, hidden_TH, slot_TK, weight_TK):
        output_TH, tokens_S = self.dispatcher(experts, hidden_TH, slot_TK, weight_TK)
        return output_TH * (1.5 if hidden_TH.dtype == torch.bfloat16 else 1.0), tokens_S


class AlwaysTheFirstCopy(torch.nn.Module):
    def __init__(self, table):
        super().__init__()
        self.slot_E = torch.tensor([table.expert_S.index(expert) for expert in range(table.experts)])

    def forward(self, index_TK):
        return self.slot_E[index_TK]


def replicated(compilation: Any) -> list[ReplicatedExperts]:
    return [module for module in compilation.graph.modules() if isinstance(module, ReplicatedExperts)]


@pytest.fixture
def rewritten() -> Compilation:
    compilation: Any = planned(traced("mixtral"), gpus=3)
    batches = [example_inputs(batch=4, tokens=16, seed=seed) for seed in range(3)]
    inputs = WorkloadInputs(compilation.inputs.example, lambda: batches)
    return run_checked(RewriteExperts(), updated(compilation, inputs=inputs))


class Keeps(nn.Module):
    def forward(self, x):
        self.last = x.mean()
        return x


class ReadsWhatWasKept(nn.Module):
    """What the block computes from a kept tensor is a constant of the example inputs in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps, self.moe = Keeps(), MoE(0.0)

    def forward(self, x):
        x = self.moe(self.keeps(x))
        return x + (self.keeps.last + self.keeps.last)


def test_a_constant_of_the_example_inputs_is_found_on_other_values():
    torch.manual_seed(0)
    with pytest.raises(VerificationFailed, match="output 0 by"):
        craftc.optimize(ReadsWhatWasKept().eval(), {"x": torch.randn(2, 6, HIDDEN)}, craftc.Topology(gpus=2), "25%")
