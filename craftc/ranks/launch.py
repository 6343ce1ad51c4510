"""Ranks on one machine, started through torchrun and watched to their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, CraftcError, RankFailed, Refused, Unsupported, VerificationFailed
from craftc.ranks.program import ERRORS_FOLDER

_KINDS: dict[str, type[CraftcError]] = {
    kind.__name__: kind for kind in (BadInput, RankFailed, Refused, Unsupported, VerificationFailed)
}
_TERMINATION_S = 40
"""torchrun gives ranks 30 s to end before it kills them."""


def launch_ranks(ranks: int, module: str, arguments: Sequence[str], timeout_s: float) -> None:
    """Run `python -m module arguments` on `ranks` ranks of this machine and wait.

    What ranks print goes to stderr. Raises the first failing rank's own error, BadInput for a wrong number of ranks,
    and RankFailed if ranks die without a message or take longer than `timeout_s` in total; none is left running.
    """
    if ranks < 1:
        raise BadInput(f"ranks must be at least 1, got {ranks}")
    with tempfile.TemporaryDirectory(prefix="craftc-ranks-") as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        process = subprocess.Popen(
            [*command, "-m", module, *arguments],
            env=_environment(ranks, folder),
            stdout=2,  # our stdout is for results
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, noise = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RankFailed(f"{ranks} ranks did not finish within {timeout_s:g} s and were stopped") from None
        finally:
            _end(process)
        if process.returncode:
            raise first_error(Path(folder), ranks, noise)


def _environment(ranks: int, folder: str) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // ranks)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, ERRORS_FOLDER: folder}


def _end(process: subprocess.Popen[str]) -> None:
    """Stop torchrun by SIGTERM, which it passes on to its ranks; killing it would leave them running."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_TERMINATION_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def first_error(folder: Path, ranks: int, noise: str) -> CraftcError:
    """The error of the rank that failed first; ranks that only lost their connection to it come last."""
    errors: list[dict[str, Any]] = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    if any(error["kind"] not in _KINDS for error in errors) or not errors:
        sys.stderr.write(noise)  # a bug, or a rank that could not even start: the reason is in there
    if not errors:
        last = next((line for line in reversed(noise.splitlines()) if "Signal" in line or "exitcode" in line), "")
        return RankFailed(": ".join(filter(None, (f"one of {ranks} ranks died without a message", last.strip()))))
    first = min(errors, key=lambda error: (error["kind"] == RankFailed.__name__, error["time"]))
    kind = _KINDS.get(first["kind"], RankFailed)
    return kind(f"rank {first['rank']} of {ranks}: {first['message']}")
