"""Which tensors of an experts module belong to which expert; selected experts run as all of them do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from craftc.runtime.expert_layout import ExpertLayout, expert_layout
from craftc.runtime.local_experts import expert_bytes, local_experts, zero_experts
from craftc.runtime.replicated_experts import virtual_experts
from craftc.runtime.virtual import InTurnDispatcher
from tests.runtime.plans import random_layer

E, F, H = 5, 3, 4


def loop(hidden: Tensor, index: Tensor, weights: Tensor, expert: Any) -> Tensor:
    output = torch.zeros_like(hidden)
    for number in index.unique().tolist():
        token, position = torch.where(index == number)
        output.index_add_(0, token, expert(number, hidden[token]) * weights[token, position, None])
    return output


class Flat(nn.Module):
    """All experts in two dimensions, in a module of their own, as in DBRX."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp: Any = nn.Module()
        self.mlp.w1 = nn.Parameter(torch.randn(E * F, H))
        self.mlp.w2 = nn.Parameter(torch.randn(E * F, H))
        self.moe_num_experts = E

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        up, down = self.mlp.w1.view(-1, F, H), self.mlp.w2.view(-1, F, H)
        assert up.shape[0] == self.moe_num_experts
        return loop(hidden, index, weights, lambda number, x: torch.relu(x @ up[number].T) @ down[number])


class WithSharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(E, H, H))
        self.norm: nn.Module = nn.LayerNorm(H)
        self.n_experts = E

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        return loop(hidden, index, weights, lambda number, x: self.norm(x @ self.up[number]))


class WithZeroExperts(nn.Module):
    """Ids from E on return their tokens, and one tensor has rows for them, as in LongCat-Flash."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(E + 2, H, H))
        self.down = nn.Parameter(torch.randn(E, H, H))
        self.num_routed_experts, self.zero_expert_num = E, 2

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        def expert(number: int, x: Tensor) -> Tensor:
            return x if number >= self.num_routed_experts else torch.relu(x @ self.up[number]) @ self.down[number]

        return loop(hidden, index, weights, expert)


def routing(ids: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(23, ids, generator=generator)
    return torch.randn(23, H, generator=generator), scores.topk(2).indices, scores.topk(2).values


LAYOUTS = [
    (Flat, ExpertLayout(E, (("mlp.w1", F), ("mlp.w2", F))), 2 * F * H * 4),
    (WithSharedNorm, ExpertLayout(E, (("up", 1),)), H * H * 4),
    (WithZeroExperts, ExpertLayout(E, (("up", 1), ("down", 1)), zero_experts=2), 2 * H * H * 4),
]


@pytest.mark.parametrize(("kind", "layout", "size"), LAYOUTS)
def test_layout_and_bytes(kind, layout, size):
    module = kind()
    assert expert_layout(module) == layout
    assert expert_bytes(module) == size
    assert zero_experts(module) == layout.zero_experts


@pytest.mark.parametrize("kind", [Flat, WithSharedNorm, WithZeroExperts])
def test_selected_experts_compute_the_same(kind):
    torch.manual_seed(0)
    module = kind()
    hidden, index, weights = routing(E)
    order = (3, 0, 4, 1, 2, 0)
    position_E = torch.tensor([order.index(expert) for expert in range(E)])
    torch.testing.assert_close(
        local_experts(module, order)(hidden, position_E[index], weights), module(hidden, index, weights)
    )
    assert expert_layout(local_experts(module, order)).experts == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [Flat, WithSharedNorm, WithZeroExperts])
def test_replicated_experts_compute_the_same_on_every_gpu(kind):
    torch.manual_seed(0)
    module = kind()
    args = routing(E + zero_experts(module))
    replicated = virtual_experts(module, random_layer("experts", E, 3, 4, seed=1))
    torch.testing.assert_close(replicated(*args), module(*args))
    in_turn, tokens = replicated.dispatched(InTurnDispatcher(replicated.table), *args)
    torch.testing.assert_close(in_turn, module(*args))
    assert int(tokens.sum()) == int((args[1] < E).sum()), "zero experts are no tokens of any GPU"


def test_a_parameter_with_more_rows_and_no_attribute_that_says_why_is_refused():
    module = WithZeroExperts()
    module.zero_expert_num = 3
    assert expert_layout(module) == "its parameters disagree on the number of experts (dim 0): [5, 7]"


def test_a_flat_parameter_must_be_a_multiple_of_the_experts():
    module = Flat()
    module.moe_num_experts = 4
    assert expert_layout(module) == "no 3-D parameters stacked over experts: it has mlp.w1 [15, 4], mlp.w2 [15, 4]"
