"""Reading a block's routing from its own code. Axes: T tokens, E experts, H hidden size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from craftc.runtime.block_copy import own_tensors
from craftc.runtime.block_passes import BlockPasses, weights_of
from craftc.runtime.block_routing import leaves_of, rows_of
from craftc.runtime.expert_calls import OneExpert


class Counting(nn.Module):
    """Weighs its experts by hand; counts its calls in a buffer, its shared module's in an attribute of that."""

    def __init__(self, experts: int, hidden: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(experts))
        self.shared = Shared(hidden)
        self.register_buffer("calls", torch.zeros(()))

    calls: torch.Tensor

    def forward(self, x, weight_TE):
        self.calls += 1
        out = self.shared(x)
        for number, expert in enumerate(self.experts):
            rows = weight_TE[:, number].nonzero().squeeze(1)
            out[rows] += weight_TE[rows, number, None] * expert(x[rows])
        return out + torch.rand_like(x)


class Shared(nn.Module):
    runs = 0

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, x):
        type(self).runs += 1
        return self.linear(x)


def read(block: Any, weight_TE: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is read as the rest, and as the weights."""
    experts = {f"experts.{number}": OneExpert(number, extras=0) for number in range(len(block.experts))}
    passes = BlockPasses(block, experts, len(experts), x.shape[-1])
    found = passes.run(own_tensors(block, tuple(experts)), (x, weight_TE), {})
    rest_TH = rows_of(leaves_of(found.rest)[0])
    return rest_TH, weights_of(rest_TH, [(experts, rows_of(leaves_of(output)[0])) for experts, output in found.marked])


@pytest.mark.parametrize(("experts", "hidden"), [(3, 8), (8, 8), (11, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_are_read_exactly_whatever_the_rest_and_however_small(experts, hidden, dtype):
    torch.manual_seed(0)
    block = Counting(experts, hidden).to(dtype)
    weight_TE = torch.rand(9, experts).masked_fill(torch.rand(9, experts) < 0.5, 0.0).to(dtype)
    weight_TE[0, 0], weight_TE[1, 1] = 1e-7, -3.0
    _, read_TE = read(block, weight_TE, 100 * torch.randn(9, hidden).to(dtype))
    assert torch.equal(read_TE, weight_TE)


def test_half_precision_has_less_room():
    block = Counting(3, 8).half()
    weight_TE = torch.tensor([[0.25, 0.0, 0.75]]).half()
    _, read_TE = read(block, weight_TE, torch.randn(1, 8).half())
    torch.testing.assert_close(read_TE, weight_TE, rtol=1e-2, atol=1e-3)


def test_the_block_is_unchanged_and_its_buffers_count_one_call():
    block = Counting(3, 8).eval()
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    read(block, torch.ones(2, 3), torch.randn(2, 8))
    assert float(block.calls) == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items() if name != "calls")


def test_another_module_that_is_written_into_runs_again_and_one_that_is_not_does_not():
    class Clean(Counting):
        def forward(self, x, weight_TE):
            shared = self.shared(x)
            return shared + sum(weight_TE[:, n, None] * expert(x) for n, expert in enumerate(self.experts))

    for block, runs in ((Counting(3, 8).eval(), 2), (Clean(3, 8).eval(), 1), (Clean(3, 8).train(), 2)):
        Shared.runs = 0
        read(block, torch.ones(2, 3), torch.randn(2, 8))
        assert Shared.runs == runs
