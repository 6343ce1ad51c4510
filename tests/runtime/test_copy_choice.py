"""Copy choice against a plain loop over pairs. Axes: T tokens, K experts per token, S slots, E experts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.copy_choice import EvenShares, LocalFirst, OnlyCopy, PlannedShares, copy_choice
from craftc.runtime.slot_table import slot_table
from tests.runtime.plans import random_layer


def routed(tokens: int, layer: LayerPlan, seed: int, hot: float = 0.0) -> torch.Tensor:
    """Router choices [T, K], distinct within a token; expert 0 preferred by `hot`."""
    generator = torch.Generator().manual_seed(seed)
    scores_TE = torch.rand(tokens, layer.experts, generator=generator)
    scores_TE[:, 0] += hot
    return scores_TE.topk(layer.top_k or 1, dim=1).indices


def per_slot(slot_TK: torch.Tensor, slots: int) -> list[int]:
    return torch.bincount(slot_TK.reshape(-1), minlength=slots).tolist()


def with_shares(layer: LayerPlan, seed: int) -> LayerPlan:
    weight = torch.rand(sum(map(len, layer.placement)), generator=torch.Generator().manual_seed(seed)).tolist()
    sums: dict[int, float] = defaultdict(float)
    flat = [expert for gpu in layer.placement for expert in gpu]
    for expert, share in zip(flat, weight, strict=True):
        sums[expert] += share
    shares = iter([share / sums[expert] for expert, share in zip(flat, weight, strict=True)])
    return replace(layer, shares=tuple(tuple(next(shares) for _ in gpu) for gpu in layer.placement))


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(0, 60),
    experts=st.integers(2, 9),
    gpus=st.integers(1, 5),
    replicas=st.integers(0, 8),
    rank=st.integers(0, 4),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_pair_goes_to_a_copy_of_its_expert_and_copies_get_their_share(
    tokens, experts, gpus, replicas, rank, shared, seed
):
    layer = random_layer("x", experts, gpus, min(replicas, experts * (gpus - 1)), seed)
    layer = with_shares(layer, seed) if shared else layer
    table = slot_table(layer)
    index_TK = routed(tokens, layer, seed, hot=0.5)
    slot_TK = copy_choice(layer, rank)(index_TK)
    assert slot_TK.dtype == torch.int64
    assert slot_TK.shape == index_TK.shape
    assert torch.equal(torch.tensor(table.expert_S)[slot_TK], index_TK)
    pairs_E = torch.bincount(index_TK.reshape(-1), minlength=experts).tolist()
    for slot, count in enumerate(per_slot(slot_TK, table.slots)):
        assert abs(count - table.share_S[slot] * pairs_E[table.expert_S[slot]]) < 1.001


def test_even_choice_is_the_plain_loop():
    layer = random_layer("x", 6, 4, 7, seed=3)
    table = slot_table(layer)
    index_TK = routed(50, layer, seed=1)
    seen: Counter[int] = Counter()
    expected = []
    for expert in index_TK.reshape(-1).tolist():
        own = [slot for slot in table.slots_by_expert_S if table.expert_S[slot] == expert]
        expected.append(own[(seen[expert] + 2 + expert) % len(own)])
        seen[expert] += 1
    assert copy_choice(layer, rank=2)(index_TK).reshape(-1).tolist() == expected


def test_choice_is_not_biased_by_the_position_among_a_tokens_choices():
    layer = LayerPlan("x", 0, 2, 2, 1, 2, ((0, 1), (1, 0)))
    index_TK = torch.tensor(
        [[0, 1]] * 64
    )  # expert 0 always at even positions: position modulo copies would use one copy
    assert per_slot(copy_choice(layer, 0)(index_TK), 4) == [32, 32, 32, 32]


@pytest.mark.parametrize("shares", [None, ((0.5, 0.5), (0.5, 0.5))])
def test_odd_token_rotates_with_the_rank(shares):
    layer = LayerPlan("x", 0, 2, 1, 1, 2, ((0, 1), (0, 1)), shares)
    index_TK = torch.tensor([[0]])
    slots = [copy_choice(layer, rank)(index_TK).item() for rank in range(4)]
    assert sorted(slots[:2]) == [0, 2]
    assert slots[:2] == slots[2:]


def test_planned_shares_of_zero_and_one_are_obeyed():
    layer = LayerPlan("x", 0, 2, 1, 1, 1, ((0, 1), (0,)), ((0.0, 1.0), (1.0,)))
    assert per_slot(copy_choice(layer, 0)(torch.tensor([[0]] * 9 + [[1]] * 4)), 3) == [0, 4, 9]


def test_local_first_prefers_the_ranks_own_copy():
    layer = random_layer("x", 6, 3, 5, seed=0)
    table = slot_table(layer)
    index_TK = routed(40, layer, seed=0)
    slot_TK = copy_choice(layer, 1, "local-first")(index_TK)
    for expert, slot in zip(index_TK.reshape(-1).tolist(), slot_TK.reshape(-1).tolist(), strict=True):
        assert table.expert_S[slot] == expert
        assert table.gpu_S[slot] == 1 or expert not in table.experts_of(1)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (random_layer("x", 4, 2, 0), OnlyCopy),
        (random_layer("x", 4, 2, 2), EvenShares),
        (with_shares(random_layer("x", 4, 2, 2), 0), PlannedShares),
    ],
)
def test_the_rule_follows_the_plan(layer, kind):
    assert isinstance(copy_choice(layer, 0), kind)
    assert isinstance(copy_choice(layer, 0, "local-first"), LocalFirst)


def test_tables_are_no_part_of_the_state_dict():
    assert not copy_choice(with_shares(random_layer("x", 4, 2, 2), 0), 0, "local-first").state_dict()
