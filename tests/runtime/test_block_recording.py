"""Blocks recorded and replayed: what runs twice, what is written to, and rows that need not be computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from craftc.runtime.block_copy import own_tensors
from craftc.runtime.block_recording import BlockRecording, BlockReplay, RecordedBlock
from craftc.runtime.expert_calls import OneExpert
from craftc.runtime.module_list_experts import ModuleListExperts
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, HIDDEN, TOP_K
from tests.passes.analysis.tracing.stacked_styles import Loop, NormAfter, ScaledInput

CALLED = {f"experts.{number}": OneExpert(number, extras=0) for number in range(EXPERTS)}


def recorded(block: nn.Module) -> tuple[BlockRecording, tuple[torch.Tensor, ...], ModuleListExperts]:
    own = own_tensors(block, tuple(CALLED))
    experts: Any = block.experts
    return BlockRecording(RecordedBlock(block, CALLED), tuple(own)), tuple(own.values()), ModuleListExperts(experts)


def some(block: type[nn.Module]) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    return block().eval(), torch.randn(2, 7, HIDDEN)


def test_the_blocks_output_comes_back_exactly():
    for kind in (NormAfter, ScaledInput):  # the second divides what its router returned in place
        block, x = some(kind)
        recording, own, experts = recorded(block)
        with torch.no_grad():
            got, index_P1 = recording.with_experts(experts, own, (x,), {})
            torch.testing.assert_close(got, block(x), rtol=1e-5, atol=1e-6)
        assert index_P1.shape == (2 * 7 * TOP_K, 1)


def test_what_comes_before_the_experts_runs_once_and_what_follows_twice():
    block, x = some(NormAfter)
    recording, own, experts = recorded(block)
    runs: list[str] = []

    class Noting(nn.LayerNorm):
        def forward(self, x):
            runs.append("before" if self is before else "after")
            return super().forward(x)

    copied: Any = recording.block._copy.block
    before = copied.before
    for norm in (copied.before, copied.after):
        norm.__class__ = Noting
    with torch.no_grad():
        recording.with_experts(experts, own, (x,), {})
    assert runs == ["before", "after", "after"]


class Counts(Loop):
    """Counts its calls in a buffer, and draws noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    calls: torch.Tensor

    def forward(self, x):
        self.calls += 1
        noise = torch.randn_like(x) if self.training else 0.0
        return super().forward(x + noise).exp()


def test_buffers_change_once():
    block, x = some(Counts)
    recording, own, experts = recorded(block)
    with torch.no_grad():
        recording.with_experts(experts, own, (x,), {})
    assert block.calls == 1


def test_both_runs_draw_the_same_in_training():
    block, x = some(Counts)
    block.train()
    recording, own, experts = recorded(block)
    recording.train()
    with torch.no_grad():
        torch.manual_seed(3)
        got, _ = recording.with_experts(experts, own, (x,), {})
        torch.manual_seed(3)
        torch.testing.assert_close(got, block(x), rtol=1e-5, atol=1e-6)


class Padded(Loop):
    """Every expert gets all tokens, those of others as zeros."""

    def combine(self, flat, chosen, weights):
        total = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            scale = (weights * (chosen == number)).sum(-1, keepdim=True)
            total = total + expert(flat * scale)
        return total


def test_rows_of_zeros_are_computed_once_for_every_expert():
    block, x = some(Padded)
    recording, own, experts = recorded(block)
    with torch.no_grad():
        hidden_PH, index_P1, weight_P1, found = recording(own, x)
        assert len(hidden_PH) == 2 * 7 * TOP_K + EXPERTS
        assert (hidden_PH == 0).all(1).sum() == EXPERTS
        replay = BlockReplay(recording.block, recording.tensor_names)
        got = replay(own, found, experts(hidden_PH, index_P1, weight_P1), x)
        torch.testing.assert_close(got, block(x), rtol=1e-5, atol=1e-6)
    with_gradients, *_ = recording(own, x)
    assert len(with_gradients) == 2 * 7 * EXPERTS, "gradients of equal rows differ"
