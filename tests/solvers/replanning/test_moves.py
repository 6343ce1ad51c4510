"""Which weights travel between two placements."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.replanning.moves import (
    fit_slots,
    held_experts,
    keep_positions,
    match_gpus,
    match_nodes,
    moves_per_gpu,
)
from craftc.topology import Topology
from tests.plans.sample_plans import random_placement

OLD = ((0, 1, 2), (3, 0, 4))


def random_pair(seed, experts, gpus, more):
    import random

    rng = random.Random(seed)
    slots = experts + min(more, experts * (gpus - 1))
    return random_placement(rng, experts, gpus, slots), random_placement(rng, experts, gpus, slots)


shapes = st.tuples(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5), st.integers(0, 6))


def test_a_move_is_an_expert_new_to_its_gpu():
    assert moves_per_gpu(OLD, ((2, 0, 1), (3, 0, 4))) == (0, 0)
    assert moves_per_gpu(OLD, ((0, 1, 3), (2, 0, 4))) == (1, 1)


def test_stayers_keep_their_slot_and_newcomers_fill_up():
    assert keep_positions(OLD, ((5, 2, 0), (4, 3, 1))) == ((0, 5, 2), (3, 1, 4))


def test_where_slots_are_gone_a_stayer_takes_a_free_one():
    assert keep_positions(OLD, ((2, 0), (4, 0, 3, 1))) == ((0, 2), (3, 0, 4, 1))


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_keeping_positions_changes_order_only(shape):
    old, new = random_pair(*shape)
    kept = keep_positions(old, new)
    assert [sorted(gpu) for gpu in kept] == [sorted(gpu) for gpu in new]
    for before, after in zip(old, kept, strict=True):
        for slot, expert in enumerate(before):
            assert expert not in after or slot >= len(after) or after[slot] == expert


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_matching_is_the_best_of_all_renamings(shape):
    old, new = random_pair(*shape)
    slots = tuple(map(len, old))
    matched = match_gpus(old, new, slots)
    assert matched is not None
    assert tuple(map(len, matched)) == slots
    assert sorted(matched) == sorted(new)
    renamings = (renamed for renamed in itertools.permutations(new) if tuple(map(len, renamed)) == slots)
    assert sum(moves_per_gpu(old, matched)) == min(sum(moves_per_gpu(old, renamed)) for renamed in renamings)


def test_no_match_for_other_numbers_of_slots():
    assert match_gpus(OLD, ((0, 1, 2, 3), (4, 0)), (3, 3)) is None


def test_fitting_drops_the_replica_missed_least_and_adds_the_one_wanted_most():
    load_E = np.array([8.0, 1, 1, 1, 9])
    assert fit_slots(OLD, (2, 3), load_E) == ((1, 2), (3, 0, 4))
    assert fit_slots(OLD, (4, 3), load_E) == ((0, 1, 2, 4), (3, 0, 4))


def test_fitting_a_gpu_of_only_copies_moves_one_to_where_a_replica_lay():
    old = ((1, 2), (0, 3), (0,))
    fitted = fit_slots(old, (1, 2, 1), np.ones(4))
    assert sorted(itertools.chain(*fitted)) == [0, 1, 2, 3]
    assert tuple(map(len, fitted)) == (1, 2, 1)
    assert sum(moves_per_gpu(old, fitted)) == 1


@settings(deadline=None, max_examples=80)
@given(shapes, st.integers(0, 6))
def test_fitted_placements_are_sound(shape, more):
    seed, experts, gpus, first = shape
    old, _ = random_pair(seed, experts, gpus, first)
    target, _ = random_pair(seed + 1, experts, gpus, more)
    slots = tuple(map(len, target))
    load_E = np.random.default_rng(seed).integers(0, 9, experts).astype(float)
    fitted = fit_slots(old, slots, load_E)
    assert tuple(map(len, fitted)) == slots
    assert set(itertools.chain(*fitted)) == set(range(experts))
    assert all(len(set(gpu)) == len(gpu) for gpu in fitted)


def test_held_experts():
    assert held_experts(OLD, 5).astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 1, 1]]


def test_nodes_are_renamed_whole():
    old = ((0, 1), (2, 3), (4, 5), (6, 7))
    # Each node's GPUs swapped, and the nodes too: nothing needs to move.
    assert match_nodes(old, ((6, 7), (4, 5), (2, 3), (0, 1)), (2, 2, 2, 2), Topology(4, 2)) == old
    # GPUs alone could be matched without a move, but not node by node.
    mixed = ((0, 1), (4, 5), (2, 3), (6, 7))
    assert match_gpus(old, mixed, (2, 2, 2, 2)) == old
    matched = match_nodes(old, mixed, (2, 2, 2, 2), Topology(4, 2))
    assert matched is not None
    assert sum(moves_per_gpu(old, matched)) == 4
    assert {frozenset(matched[:2]), frozenset(matched[2:])} == {frozenset(mixed[:2]), frozenset(mixed[2:])}


def test_nodes_with_other_numbers_of_slots_do_not_match():
    assert match_nodes(((0, 1), (2,)), ((0,), (1, 2)), (2, 1), Topology(2, 2)) == ((1, 2), (0,))
    assert match_nodes(((0, 1), (2,), (3,), (4,)), ((0,), (1,), (2, 3), (4,)), (1, 1, 1, 2), Topology(4, 2)) is not None
    assert match_nodes(((0,), (1,), (2, 3), (4, 5)), ((0, 1), (2,), (3, 4), (5,)), (1, 1, 2, 2), Topology(4, 2)) is None
