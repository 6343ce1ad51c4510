"""How the budget was chosen for a server, as text and JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from craftc.report.goodput_choice import goodput_choice_document, goodput_choice_text
from craftc.serving.goodput_curve import GoodputCurve, goodput_curve
from tests.serving.small_server import TOPOLOGY, server_of, skewed_loads


@pytest.fixture(scope="module")
def curve() -> GoodputCurve:
    return goodput_curve(skewed_loads(1.0), TOPOLOGY, server_of(), "craft", (0, 1, 2))


def test_the_chosen_row_is_marked_and_the_rule_stands_first(curve: GoodputCurve):
    lines = goodput_choice_text(curve).splitlines()
    assert lines[0] == f"budget auto: {curve.rule}"
    marked = [line for line in lines if "<- chosen" in line]
    assert [line.split()[0] for line in marked] == [str(curve.chosen)]
    assert lines[-1].startswith("planned from 4 steps, judged on 4; within the limits")
    confirmed = [point for point in curve.points if point.confirmation is not None]
    assert f"{confirmed[0].confirmation.goodput:.2f}" in lines[3]  # type: ignore[union-attr]


def test_a_row_without_cache_says_so(curve: GoodputCurve):
    last = curve.points[-1]
    full = replace(last, worth=replace(last.worth, goodput=0.0, kv_bytes=-1e9, binds="memory"))
    text = goodput_choice_text(replace(curve, points=(*curve.points[:-1], full)))
    assert "no KV left" in text
    assert "no KV left" not in goodput_choice_text(curve)


def test_the_document_has_every_point(curve: GoodputCurve):
    document = goodput_choice_document(curve)
    assert [point["replicas_per_gpu"] for point in document["points"]] == [0, 1, 2]
    assert document["points"][0]["worth"]["goodput"] == curve.points[0].worth.goodput
    assert document["chosen"] == curve.chosen
    assert document["ceiling"]["balancedness"] == 1.0
