"""Phases in one line."""

import pytest

from craftc.report.phases_report import phases_document, phases_hint, phases_text, step_ranges
from craftc.solvers.phases import Phase, PhaseGain

PHASES = (Phase("prefill", (0, 1, 2, 3)), Phase("decode", (4, 5, 6, 7, 8)))
GAIN = PhaseGain(PHASES, (0.905, 0.858), (0.923, 0.925))


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([0, 1, 2, 3], "0-3"),
        ([5], "5"),
        ([0, 1, 3, 5, 6], "0-1, 3, 5-6"),
        (list(range(0, 64, 2)), "0, 2, ..., 62"),
    ],
)
def test_ranges_of_steps_are_short(steps: list[int], text: str):
    assert step_ranges(steps) == text


def test_the_line_says_what_there_is_what_is_gained_and_how_to_get_it():
    assert phases_hint(GAIN) == (
        "phases: prefill (4 steps: 0-3), decode (5 steps: 4-8); on steps left out, one plan for all reaches 0.881 "
        "balancedness, a plan for each on servers of its own 0.924 (prefill +0.018, decode +0.067); "
        "craftc plan --per-phase writes a plan for each"
    )
    document = phases_document(GAIN)
    assert document["gain"] == pytest.approx(0.0425)
    assert document["phases"][0] == {
        "name": "prefill",
        "steps": [0, 1, 2, 3],
        "joint_plan": 0.905,
        "own_plan": 0.923,
        "gain": pytest.approx(0.018),
    }


def test_no_hint_without_a_gain():
    small = PhaseGain(PHASES, (0.9, 0.9), (0.905, 0.89))
    assert phases_hint(small) == ""
    assert phases_hint(None) == ""
    assert "decode -0.010" in phases_text(small)
