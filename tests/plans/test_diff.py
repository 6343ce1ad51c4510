"""Which weights travel between two plans."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.plans.diff import GpuMoves, Move, diff_plans
from tests.plans.sample_plans import plan_of, random_plan, toy_layers, toy_plan


def test_every_move_is_named_with_its_bytes():
    # toy: layer 1 on [0,1,2] [3,0,1], layer 2 on [2,3,0] [1,2,3]
    new = plan_of([((1, 0, 2), (3, 2, 1)), ((2, 3, 1), (1, 2, 0))], toy_layers())
    diff = diff_plans(toy_plan(), new)
    assert diff.moves == (
        Move(0, "layers.2", 2, 1, 0, 1000),
        Move(1, "layers.1", 1, 2, 0, 1000),
        Move(1, "layers.2", 2, 0, 3, 1000),
    )
    assert diff.gpus == (GpuMoves(0, 1, 1000, 1, 2), GpuMoves(1, 2, 2000, 2, 0))
    assert diff.moved_bytes == 3000


def test_a_new_slot_replaces_nothing():
    old = plan_of([((0, 1, 2), (3, 0)), ((2, 3, 0), (1, 2, 3))], toy_layers())
    assert diff_plans(old, toy_plan()).moves == (Move(1, "layers.1", 2, 1, None, 1000),)


def test_shares_alone_move_nothing():
    plan = toy_plan()
    first = replace(plan.layers[0], shares=((0.25, 0.5, 1.0), (1.0, 0.75, 0.5)))
    diff = diff_plans(plan, replace(plan, layers=(first, *plan.layers[1:])))
    assert diff.moved_bytes == 0
    assert diff.changed_shares == ("layers.1",)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(0, 999))
def test_there_and_back_moves_as_many_copies(one, other):
    old, new = random_plan(one, 3, 5, (7, 6), 0), random_plan(other, 3, 5, (7, 6), 0)
    there, back = diff_plans(old, new), diff_plans(new, old)
    assert len(there.moves) == sum(gpu.received for gpu in there.gpus) == sum(gpu.dropped for gpu in back.gpus)
    assert sum(move.bytes for move in there.moves) == there.moved_bytes
    assert diff_plans(old, old).moves == ()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (random_plan(0, 3, 4, (6, 6), 1), "for 2 GPUs, the new one for 3"),
        (random_plan(0, 2, 4, (6,), 1), "has 2 layers, the new one 1"),
        (random_plan(0, 2, 4, (6, 6), 2), "name is layers.1 in the old plan and layers.2"),
        (random_plan(0, 2, 5, (6, 6), 1), "experts is 4 in the old plan and 5"),
    ],
)
def test_plans_of_different_models_are_refused(other, message):
    with pytest.raises(BadInput, match=message):
        diff_plans(toy_plan(), other)
