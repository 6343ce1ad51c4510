"""Steps that are planned from do not judge, as far as there are others."""

from __future__ import annotations

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.serving.held_out import HeldOut, held_out
from tests.serving.small_server import skewed_counts, skewed_loads


@pytest.mark.parametrize("steps", [2, 3, 8, 25])
def test_steps_are_dealt_into_halves_that_share_none(steps):
    loads = skewed_loads(steps=steps)
    split = held_out(loads, None)
    assert split.planned.steps + split.judged.steps == steps
    assert abs(split.planned.steps - split.judged.steps) <= 1
    both_SLE = np.concatenate([split.planned.counts_SLE, split.judged.counts_SLE])
    assert sorted(map(bytes, both_SLE)) == sorted(map(bytes, loads.counts_SLE))
    assert split.warnings == ()


def test_workloads_with_names_are_in_both_halves():
    names = ("code-1", "code-2", "chat-1", "chat-2")
    loads = LoadProfile.from_counts(skewed_counts(1.0, steps=4), step_names=names)
    split = held_out(loads, None)
    assert set(split.planned.step_names).isdisjoint(split.judged.step_names)
    assert {split.planned.steps, split.judged.steps} == {2}


def test_one_step_judges_what_was_planned_from_it_and_this_is_said():
    loads = skewed_loads(steps=1)
    split = held_out(loads, None)
    assert split.planned is split.judged is loads
    assert len(split.warnings) == 1
    assert "planned from and judged on one step" in split.warnings[0]


def test_other_loads_judge_and_all_steps_are_planned_from():
    loads, judge = skewed_loads(), skewed_loads(seed=1)
    split = held_out(loads, judge)
    assert (split.planned, split.judged) == (loads, judge)
    assert split.warnings == ()


def test_the_same_steps_from_another_file_are_noticed():
    assert "judged on the same 8 steps" in held_out(skewed_loads(), skewed_loads()).warnings[0]
    assert HeldOut(skewed_loads(), skewed_loads(seed=1)).warnings == ()


def test_a_layer_whose_tokens_are_all_in_one_half_is_refused():
    counts_SLE = skewed_counts(1.0, steps=2).copy()
    counts_SLE[1, 2] = 0
    loads = LoadProfile.from_counts(counts_SLE)
    with pytest.raises(BadInput, match=r"half of the 2 steps .* but layers.2 has no tokens in one half"):
        held_out(loads, None)
