import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.placement.exact import exact_placements
from craftc.solvers.replay import replay_batch
from craftc.solvers.search.annealing import anneal
from tests.solvers.search.layers import is_sound, layer_and_start, plain_value, random_counts


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    steps=st.integers(1, 20),
    experts=st.integers(1, 30),
    gpus=st.integers(1, 9),
    part=st.floats(0, 1),
    falls=st.booleans(),
    squarings=st.integers(3, 6),
)
def test_the_value_is_that_of_the_placement_which_is_sound(seed, steps, experts, gpus, part, falls, squarings):
    replicas = round(part * experts * (gpus - 1))
    loads, slot_GC = layer_and_start(seed, steps, experts, gpus, replicas)
    before = plain_value(loads, slot_GC, squarings, falls)
    value = anneal(loads, slot_GC, squarings, falls, 2_000, 0.1, seed)
    assert value >= before - 1e-4 * abs(before)
    assert value == pytest.approx(plain_value(loads, slot_GC, squarings, falls), rel=2e-4)
    assert is_sound(slot_GC, experts)
    assert (slot_GC < experts).sum() == experts + replicas


@pytest.mark.parametrize("seed", range(5))
def test_one_of_a_few_seeds_finds_the_best_of_all_placements(seed):
    experts, gpus, replicas = 6, 3, 2
    counts_SLE = random_counts(seed, 4, experts)
    zero, found = np.zeros(1, dtype=int), []
    for again in range(6):
        loads, slot_GC = layer_and_start(seed, 4, experts, gpus, replicas)
        anneal(loads, slot_GC, 6, False, 20_000, 0.5, again)
        found_BGC = np.where(slot_GC == experts, -1, slot_GC)[None]
        found.append(float(replay_batch(counts_SLE, zero, found_BGC)[0]))
    best_BGC = exact_placements(counts_SLE, zero, np.array([replicas]), found_BGC)
    best = float(replay_batch(counts_SLE, zero, best_BGC)[0])
    assert max(found) == pytest.approx(best, abs=0.01), "the power mean may prefer a neighbour, no more"


def test_more_proposals_find_more():
    values = []
    for proposals in (0, 500, 50_000):
        loads, slot_GC = layer_and_start(3, experts=64, gpus=16, replicas=12)
        values.append(anneal(loads, slot_GC, 5, False, proposals, 0.1, 0))
    assert values[0] + 0.01 < values[1] < values[2]


def test_a_floor_makes_steps_below_it_worthless():
    loads, slot_GC = layer_and_start(4, floor=10.0)
    start_GC = slot_GC.copy()
    value = anneal(loads, slot_GC, 5, True, 2_000, 0.1, 0)
    assert value == pytest.approx(-float(loads.floor_K[0]), rel=1e-3), "slots take longer than any GPU's tokens"
    assert is_sound(slot_GC, 24)
    assert value == pytest.approx(plain_value(loads, start_GC, 5, True), rel=1e-3)


def test_steps_without_tokens_do_not_matter():
    loads, slot_GC = layer_and_start(5)
    idle = loads._replace(load_XK=np.zeros_like(loads.load_XK), busy=0)
    before_GC = slot_GC.copy()
    assert anneal(idle, slot_GC, 5, False, 1_000, 0.1, 0) == 0
    assert (slot_GC == before_GC).all()


def test_same_seed_same_placement_other_seed_another():
    found = []
    for seed in (1, 1, 2):
        loads, slot_GC = layer_and_start(6, experts=64, gpus=16, replicas=12)
        anneal(loads, slot_GC, 5, False, 3_000, 0.1, seed)
        found.append(slot_GC)
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
