"""Ranks of tests: real processes, forked from one server that has imported everything, because imports cost seconds.

The commands' own tests start ranks through torchrun, as users do; these are for what happens once ranks run.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(
    ["tests.integration.rank_checks", "tests.integration.rank_faults", "tests.backend.compiled_ranks"]
)


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int | None
    """Exit code, minus the signal that killed it, or None if it did not end."""
    errors: str
    """What it printed to stderr."""


class ForkedRank:
    """One running rank."""

    def __init__(self, program: Callable[..., int | None], args: tuple[Any, ...], environment: dict[str, str]) -> None:
        handle, path = tempfile.mkstemp(prefix="craftc-rank-")
        os.close(handle)
        self._errors = Path(path)
        self._process = _FORK.Process(target=_run, args=(program, args, environment, path))
        self._process.start()

    def end(self, deadline: float) -> Ended:
        """Wait until `deadline` (of `time.monotonic`), then kill it."""
        self._process.join(max(0.1, deadline - time.monotonic()))
        code = self._process.exitcode
        self.kill()
        errors = self._errors.read_text()
        self._errors.unlink()
        return Ended(code, errors)

    def kill(self) -> None:
        """At once; nothing happens if it has ended."""
        self._process.kill()
        self._process.join()


def start_ranks(program: Callable[..., int | None], ranks: int, *args: Any) -> list[ForkedRank]:
    """Start `program(*args)` on `ranks` ranks, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [ForkedRank(program, args, {**world, "RANK": str(rank)}) for rank in range(ranks)]


def run_ranks(program: Callable[..., int | None], ranks: int, limit_s: float, *args: Any) -> None:
    """Run `program(*args)` on `ranks` ranks; fails with what a rank printed if it does not end with 0 in time."""
    deadline = time.monotonic() + limit_s
    ended = [rank.end(deadline) for rank in start_ranks(program, ranks, *args)]
    failed = [f"rank {rank} ended with {end.code}: {end.errors}" for rank, end in enumerate(ended) if end.code != 0]
    assert not failed, "\n".join(failed)[-6000:]


def _run(program: Callable[..., int | None], args: tuple[Any, ...], environment: dict[str, str], errors: str) -> None:
    os.environ.update(environment)
    with Path(errors).open("wb") as file:
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    sys.exit(program(*args))
