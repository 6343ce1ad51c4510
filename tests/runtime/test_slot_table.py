from __future__ import annotations

from dataclasses import replace

import pytest

from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.slot_table import slot_table

LAYER = LayerPlan("mlp.experts", 0, 3, 1, 1, 2, ((2, 0), (1,), (0, 2)))


def test_tables_follow_gpu_order():
    table = slot_table(LAYER)
    assert table.expert_S == (2, 0, 1, 0, 2)
    assert table.gpu_S == (0, 0, 1, 2, 2)
    assert table.copies_E == (2, 1, 2)
    assert table.slots_by_expert_S == (1, 3, 2, 0, 4)
    assert table.share_S == (0.5, 0.5, 1.0, 0.5, 0.5)
    assert [table.first_slot(gpu) for gpu in range(3)] == [0, 2, 3]
    assert [table.experts_of(gpu) for gpu in range(3)] == [(2, 0), (1,), (0, 2)]


def test_given_shares_are_kept_in_slot_order():
    table = slot_table(replace(LAYER, shares=((0.25, 1.0), (1.0,), (0.0, 0.75))))
    assert table.share_S == (0.25, 1.0, 1.0, 0.0, 0.75)


def test_expert_without_a_copy_is_refused():
    with pytest.raises(BadInput, match=r"layer mlp\.experts has no copy of expert 1"):
        slot_table(replace(LAYER, placement=((2, 0), (0,), (0, 2))))


def test_unknown_expert_is_refused():
    with pytest.raises(BadInput, match=r"places expert 3, but its experts are 0\.\.2"):
        slot_table(replace(LAYER, placement=((2, 0), (1,), (3, 2))))
