"""Broken runs with real processes: every rank ends, with a clear line, within the time-out. Nobody hangs."""

from __future__ import annotations

import time

import pytest

from craftc.errors import BadInput, RankFailed
from craftc.ranks.launch import launch_ranks
from tests.forked_ranks import Ended, start_ranks
from tests.integration.rank_faults import main

RANKS = 2
TIMEOUT_S = 4.0
"""Of the ranks' exchanges."""
LIMIT_S = 90.0
"""Hard limit of a test, start-up on a busy machine included."""
FAULTS = ("raise", "bug", "kill", "stuck", "other plan", "other size")


@pytest.fixture(scope="module")
def ended() -> dict[str, list[Ended]]:
    """All faults at once, because ranks wait for time-outs. No agent such as torchrun's ends the healthy ones."""
    started = {fault: start_ranks(main, RANKS, fault, TIMEOUT_S) for fault in FAULTS}
    deadline = time.monotonic() + LIMIT_S
    try:
        ends = {fault: [rank.end(deadline) for rank in ranks[:-1]] for fault, ranks in started.items()}
        started["stuck"][-1].kill()
        return {fault: [*ends[fault], ranks[-1].end(deadline)] for fault, ranks in started.items()}
    finally:
        for ranks in started.values():
            for rank in ranks:
                rank.kill()


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        ("raise", 2, "craftc: rank 1: the sum of two and two is five"),
        ("bug", 2, "craftc: rank 1: KeyError: 'nothing here'"),
        ("kill", -9, ""),
    ],
)
def test_the_others_fail_when_a_rank_dies(ended, fault, code, line):
    healthy, faulty = ended[fault]
    assert faulty.code == code
    assert line in faulty.errors
    assert healthy.code == 2
    assert "craftc: rank 0: rank 0 of 2: " in healthy.errors
    assert "in layer experts failed; another rank raised, was killed, or did not answer" in healthy.errors
    assert "Traceback" not in healthy.errors


def test_a_rank_that_does_not_answer_is_given_up_after_the_time_out(ended):
    healthy, _ = ended["stuck"]
    assert healthy.code == 2
    assert "in layer experts failed" in healthy.errors


def test_different_plans_are_refused_at_start_on_every_rank(ended):
    for end in ended["other plan"]:
        assert end.code == 2
        assert "ranks have different plans: rank 1's is" in end.errors


def test_a_plan_for_another_number_of_ranks_is_refused(ended):
    for end in ended["other size"]:
        assert end.code == 2
        assert "plan is for 3 GPUs, but 2 ranks are running; start 3 ranks" in end.errors


def test_torchrun_reports_the_rank_that_failed_first():
    with pytest.raises(BadInput, match=r"^rank 1 of 2: the sum of two and two is five$"):
        launch_ranks(2, "tests.integration.rank_faults", ["raise", str(TIMEOUT_S)], LIMIT_S)


def test_ranks_that_take_too_long_are_stopped():
    with pytest.raises(RankFailed, match=r"2 ranks did not finish within 3 s and were stopped"):
        launch_ranks(2, "tests.integration.rank_faults", ["stuck", "60"], 3)


def test_no_ranks():
    with pytest.raises(BadInput, match="ranks must be at least 1, got 0"):
        launch_ranks(0, "tests.integration.rank_faults", ["none", "5"], LIMIT_S)
