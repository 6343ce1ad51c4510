import numpy as np
import pytest

from craftc.solvers.search.descent import moves
from tests.solvers.search.layers import is_sound, layer_and_start, plain_value


def descended(loads, slot_GC, falls):
    for _ in moves(loads, slot_GC, 4, falls, np.zeros((len(loads.risk_X), len(slot_GC)), dtype=bool), 1_000):
        pass
    return slot_GC


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ends_better_and_sound(seed, falls):
    loads, slot_GC = layer_and_start(seed)
    before = plain_value(loads, slot_GC, 4, falls)
    assert plain_value(loads, descended(loads, slot_GC, falls), 4, falls) > before + 0.01
    assert is_sound(slot_GC, 24)


def test_each_move_gains_and_changes_at_most_two_slots():
    loads, slot_GC = layer_and_start(7)
    barred_XG = np.zeros((25, 8), dtype=bool)
    before_GC, value = slot_GC.copy(), plain_value(loads, slot_GC, 4, False)
    count = 0
    for moved_GC in moves(loads, slot_GC, 4, False, barred_XG, 1_000):
        assert 1 <= (moved_GC != before_GC).sum() <= 2
        then = plain_value(loads, moved_GC, 4, False)
        assert then > value
        before_GC, value, count = moved_GC.copy(), then, count + 1
    assert count > 5


def test_exchanges_happen_where_copies_are_wrong():
    loads, slot_GC = layer_and_start(8, experts=4, gpus=4, replicas=4)
    hot = int(loads.load_XK[:4].sum(axis=1).argmax())
    cold = int(loads.load_XK[:4].sum(axis=1).argmin())
    slot_GC[:] = [[0, cold], [1, cold], [2, cold], [3, 4]]
    for gpu in range(3):
        if slot_GC[gpu, 0] == cold:
            slot_GC[gpu] = [cold, 4]
    copies_before = (slot_GC == hot).sum()
    descended(loads, slot_GC, False)
    assert (slot_GC == hot).sum() > copies_before


def test_barred_experts_stay_away():
    loads, slot_GC = layer_and_start(9)
    barred_XG = np.ones((25, 8), dtype=bool)
    barred_XG[:, :4] = False
    held = [set(own) for own in slot_GC[4:].tolist()]
    for moved_GC in moves(loads, slot_GC, 4, False, barred_XG, 100):
        assert all(set(own) <= before for own, before in zip(moved_GC[4:].tolist(), held, strict=True))


def test_at_most_as_many_moves_as_allowed():
    loads, slot_GC = layer_and_start(10)
    assert len(list(moves(loads, slot_GC, 4, False, np.zeros((25, 8), dtype=bool), 3))) == 3
