"""What is left of ranks that failed; starting real ones is in tests/integration/test_ranks_failures.py."""

from __future__ import annotations

import json

import pytest

from craftc.errors import BadInput, RankFailed, VerificationFailed
from craftc.ranks.launch import first_error


def write(folder, rank, kind, message, time):
    document = {"time": time, "rank": str(rank), "kind": kind, "message": message, "exit_code": 2}
    (folder / f"rank-{rank}.json").write_text(json.dumps(document))


def test_the_cause_comes_before_those_who_lost_it(tmp_path):
    write(tmp_path, 0, "RankFailed", "exchange failed", time=1.0)
    write(tmp_path, 1, "BadInput", "no such file", time=2.0)
    write(tmp_path, 2, "VerificationFailed", "differs", time=3.0)
    error = first_error(tmp_path, 3, "")
    assert type(error) is BadInput
    assert str(error) == "rank 1 of 3: no such file"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("VerificationFailed", VerificationFailed), ("KeyError", RankFailed), ("RankFailed", RankFailed)],
)
def test_kinds_keep_their_exit_codes(tmp_path, kind, expected, capsys):
    write(tmp_path, 1, kind, "x", time=0.0)
    assert type(first_error(tmp_path, 2, "Traceback: the bug")) is expected
    assert ("the bug" in capsys.readouterr().err) == (kind == "KeyError")


def test_ranks_that_die_without_a_word(tmp_path):
    noise = "W1 something\n  traceback : Signal 9 (SIGKILL) received by PID 7\n====\n"
    error = first_error(tmp_path, 4, noise)
    assert str(error) == "one of 4 ranks died without a message: traceback : Signal 9 (SIGKILL) received by PID 7"
