"""The first sentence: will balancing help at all?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from craftc.report.balancing_answer import balancing_answer
from craftc.report.simulated_arms import arms_of_curves
from craftc.serving.saturation import Seconds
from craftc.serving.workload import Workload
from tests.report.small_curves import arms_of, curve_of, worth_of

MIXED, DECODE = Workload(), Workload(phase="decode", batch=1)
READING = Seconds(0.01, 0.02, 0.02)
"""Perfect balance leaves the experts' time as it is."""


def test_it_helps_and_how_much_of_it_is_reached():
    assert balancing_answer(arms_of({0: 2.0, 2: 3.0}), MIXED) == (
        "Balancing helps: perfect balance at no memory would serve 2.00x the requests of placement without replicas "
        "(the network binds). craftc with 2 replicas per GPU reaches 1.50x."
    )


@pytest.mark.parametrize(("ceiling", "words"), [(2.04, "Balancing helps"), (2.03, "Balancing hardly helps")])
def test_below_2_percent_it_hardly_helps(ceiling: float, words: str):
    arms = arms_of({0: 2.0, 2: 2.03}, ceiling=worth_of(ceiling))
    assert balancing_answer(arms, MIXED).startswith(words)


def test_it_hardly_helps_and_no_replicas_are_best():
    assert balancing_answer(arms_of({0: 2.0, 2: 2.01}, ceiling=worth_of(2.02)), MIXED) == (
        "Balancing hardly helps: even perfect balance at no memory would serve 1.01x the requests of placement without "
        "replicas; the network binds. The best choice is no replicas: none of the numbers tried gains more than 1%."
    )


def test_replicas_may_cost_more_than_they_gain():
    assert balancing_answer(arms_of({0: 2.0, 2: 1.5}), MIXED) == (
        "Balancing would help, but replicas do not pay: perfect balance at no memory would serve 2.00x the requests of "
        "placement without replicas (the network binds), but none of the numbers tried gains more than 1%."
    )


def test_eplb_that_pays_where_the_planner_does_not_is_named():
    arms = arms_of({0: 2.0, 2: 1.5})
    better = replace(arms, eplb=replace(arms.eplb, worth=worth_of(2.2)))
    assert balancing_answer(better, MIXED).endswith("gains more than 1%. EPLB as published reaches 1.10x.")


def test_where_nothing_else_was_tried_no_choice_is_praised():
    answer = balancing_answer(arms_of({0: 2.0}), MIXED)
    assert answer.startswith("Balancing helps: ")
    assert answer.endswith("(the network binds).")


def test_in_decode_with_few_tokens_slots_decide():
    few = balancing_answer(arms_of({0: 2.0, 2: 1.9}, ceiling=worth_of(2.02, parts=READING)), DECODE)
    assert "as long as their weights take to read" in few
    tokens = worth_of(2.5, parts=Seconds(0.01, 0.01, 0.02))
    assert "weights" not in balancing_answer(arms_of({0: 2.0, 2: 1.9}, ceiling=tokens), DECODE)
    assert "weights" not in balancing_answer(arms_of({0: 2.0, 2: 2.2}, ceiling=worth_of(2.5, parts=READING)), DECODE)
    assert "weights" not in balancing_answer(arms_of({0: 2.0, 2: 1.9}, ceiling=worth_of(2.02, parts=READING)), MIXED)


def test_without_replicas_nothing_may_be_served():
    arms = arms_of({0: 0.0, 2: 1.5})
    assert balancing_answer(arms, MIXED).endswith("craftc with 2 replicas per GPU serves 1.5 requests/s.")


def test_even_loads_are_called_so():
    curve = curve_of({0: 2.0, 2: 1.9}, ceiling=worth_of(2.01))
    even = replace(curve.points[0], worth=worth_of(2.0, mean_peak=1.01))
    arms = arms_of_curves([replace(curve, points=(even, *curve.points[1:]))], [0, 2])
    assert "Placement alone is even already: the fullest GPU has 1.01x the mean." in balancing_answer(arms, MIXED)
