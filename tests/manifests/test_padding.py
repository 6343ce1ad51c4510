"""Padding to one slot count: valid, never worse on the loads it was made with, and honest about its price."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Unsupported
from craftc.loads.load_profile import LoadProfile
from craftc.manifests.padding import pad_plan, padding_cost
from craftc.manifests.slots import fits
from craftc.plans.verifier import verify_plan
from craftc.solvers.replay import replay
from tests.plans.sample_plans import random_plan, toy_plan, uneven_plan


def loads_of(number: int, steps: int, layers: int, experts: int) -> LoadProfile:
    counts_SLE = np.random.default_rng(number).lognormal(3, 1.2, (steps, layers, experts)).astype(np.int64) + 1
    return LoadProfile.from_counts(counts_SLE)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    gpus=st.integers(1, 6),
    experts=st.integers(1, 12),
    layers=st.integers(1, 3),
    with_loads=st.booleans(),
)
def test_a_padded_plan_is_sound_uniform_and_no_larger_than_it_must_be(
    seed: int, gpus: int, experts: int, layers: int, with_loads: bool
) -> None:
    rng = random.Random(seed)
    plan = random_plan(seed, gpus, experts, [rng.randint(experts, experts * gpus) for _ in range(layers)], 0)
    loads = loads_of(seed, 3, layers, experts) if with_loads else None
    padded = pad_plan(plan, loads)
    assert verify_plan(padded) == ()
    assert fits(padded, "uniform")
    slots = {layer.experts + layer.replicas for layer in padded.layers}
    assert slots == {-(-max(layer.experts + layer.replicas for layer in plan.layers) // gpus) * gpus}
    cost = padding_cost(plan, "uniform")
    assert (set(cost.slots_L), cost.added_replicas) == (slots, padded.replicas - plan.replicas)
    assert cost.padded_bytes_per_gpu == pytest.approx(padded.budget.spent_bytes / gpus)
    assert pad_plan(padded, loads) is padded


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999))
def test_without_loads_the_slots_of_the_plan_stay(seed: int) -> None:
    plan = random_plan(seed, 4, 6, [6, 9, 17], 0)
    for layer, padded in zip(plan.layers, pad_plan(plan, None).layers, strict=True):
        for held, filled in zip(layer.placement, padded.placement, strict=True):
            assert filled[: len(held)] == held


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_padding_with_loads_is_at_least_as_good_as_without(seed: int) -> None:
    plan = random_plan(seed, 4, 8, [9, 14, 10], 0)
    loads = loads_of(seed, 4, 3, 8)
    blind, seeing = (
        replay(loads.counts_SLE, [layer.placement for layer in pad_plan(plan, given).layers]).mean()
        for given in (None, loads)
    )
    assert seeing >= blind - 1e-12


def test_the_hottest_expert_gets_the_free_slot() -> None:
    plan = uneven_plan()
    loads = LoadProfile.from_counts(np.array([[[1, 1, 90, 1], [1, 1, 1, 1]]]))
    assert pad_plan(plan, loads).layers[0].copies_E == (2, 1, 2, 1)


def test_the_price_is_said_beside_the_unpadded_one() -> None:
    plan = replace(uneven_plan(), layers=tuple(replace(layer, expert_bytes=2**30) for layer in uneven_plan().layers))
    assert str(padding_cost(plan, "uniform")) == (
        "6 slots in every layer: 1 copy added, replicas take 2.00 GiB per GPU instead of 1.50 GiB"
    )


def test_a_uniform_plan_keeps_its_estimate_and_other_loads_are_refused() -> None:
    plan = toy_plan()
    assert pad_plan(plan, None) is plan
    with pytest.raises(BadInput, match="loads are 3 layers of 4 experts, the plan has 2 of 4"):
        pad_plan(uneven_plan(), loads_of(1, 2, 3, 4))


def test_even_padding_leaves_layers_their_own_counts() -> None:
    plan = random_plan(3, 4, 6, [6, 9, 16], 0)
    padded = pad_plan(plan, None, "even")
    assert [layer.experts + layer.replicas for layer in padded.layers] == [8, 12, 16]
    assert fits(padded, "even")
    assert not fits(padded, "uniform")
    assert str(padding_cost(plan, "even")).startswith("8 to 16 slots: 5 copies added")


def test_a_plan_that_keeps_groups_on_nodes_is_not_padded() -> None:
    with pytest.raises(Unsupported, match="keeps 2 groups of experts on nodes"):
        pad_plan(replace(uneven_plan(), groups=2), None)
