import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from craftc.solvers.placement.dealt import dealt_placements
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.search.settling import settle
from craftc.topology import Topology
from tests.solvers.search.layers import is_sound


def dealt(load_E, replicas, gpus):
    slot_GC = dealt_placements(load_E[None], np.array([replicas]), gpus)[0].copy()
    slot_GC[slot_GC < 0] = len(load_E)
    copies_E = np.bincount(slot_GC.ravel(), minlength=len(load_E) + 1)[: len(load_E)]
    return np.ascontiguousarray(slot_GC), copies_E


@given(seed=st.integers(0, 999), experts=st.integers(1, 14), gpus=st.integers(1, 7), part=st.floats(0, 1))
def test_keeps_every_copy_and_stays_sound(seed, experts, gpus, part):
    load_E = np.random.default_rng(seed).lognormal(0, 1, experts)
    slot_GC, copies_E = dealt(load_E, round(part * experts * (gpus - 1)), gpus)
    before = sorted(slot_GC.ravel().tolist())
    settle(slot_GC, np.append(load_E / copies_E, 0.0))
    assert sorted(slot_GC.ravel().tolist()) == before
    assert is_sound(slot_GC, experts)


def test_settles_as_the_greedy_rule_does():
    load_E = np.random.default_rng(0).lognormal(0, 1, 24)
    slot_GC, copies_E = dealt(load_E, 8, 8)
    settle(slot_GC, np.append(load_E / copies_E, 0.0))
    greedy_BGK = greedy_placements(load_E[None], copies_E[None], np.full((1, 8), 4), Topology(8))
    assert sorted(map(sorted, slot_GC.tolist())) == sorted(map(sorted, greedy_BGK[0].tolist()))


def test_what_cannot_settle_stays_as_dealt():
    # Two experts on two GPUs, both with two copies and equal loads, and a third with one: the last finds no room twice.
    slot_GC = np.array([[0, 1], [1, 0]], dtype=np.int32)
    settle(slot_GC, np.array([1.0, 1.0, 0.0]))
    assert is_sound(slot_GC, 2)
