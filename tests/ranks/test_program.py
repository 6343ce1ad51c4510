"""Ranks that fail leave their process: that is in tests/integration/test_ranks_failures.py."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist

from craftc.errors import VerificationFailed
from craftc.ranks import program as rank_program
from craftc.ranks.program import ERRORS_FOLDER, run_on_rank


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ERRORS_FOLDER, str(tmp_path))

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(rank_program.os, "_exit", leave)


def test_work_that_succeeds_ends_with_0():
    seen = []
    assert run_on_rank(lambda group: seen.append(group.size), timeout_s=5) == 0
    assert seen == [1]
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(VerificationFailed("no"), 1, "no"), (ValueError("a\nb"), 2, "ValueError: a b")],
)
def test_an_error_is_one_line_and_a_file(tmp_path, capsys, error, code, line):
    def work(group):
        raise error

    with pytest.raises(Left) as left:
        run_on_rank(work, timeout_s=5)
    assert left.value.args == (code,)
    assert f"craftc: rank 0: {line}\n" in capsys.readouterr().err
    document = json.loads((tmp_path / "rank-0.json").read_text())
    assert (document["kind"], document["message"]) == (type(error).__name__, line)
