"""A program that torchrun starts on every rank: its process group, its errors and its end.

An error becomes one line on stderr and, if `launch` asked for it, a file that says which rank failed first and why.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from craftc.errors import CraftcError, one_line
from craftc.runtime.process_group import rank_process_group
from craftc.runtime.rank_group import RankGroup

ERRORS_FOLDER = "CRAFTC_RANK_ERRORS"
"""Environment variable: the folder that failing ranks write `rank-<r>.json` into."""


def run_on_rank(work: Callable[[RankGroup], None], timeout_s: float) -> int:
    """Run `work` in the process group of all ranks; returns the exit code.

    A failing rank does not return: it flushes and exits at once, because its peers may never answer a clean teardown.
    They find their exchanges broken and fail too, after `timeout_s` at the latest.
    """
    try:
        with rank_process_group(timeout_s) as group:
            work(group)
    except CraftcError as error:
        _leave(type(error).__name__, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        _leave(type(error).__name__, one_line(error), 2)
    return 0


def _leave(kind: str, message: str, exit_code: int) -> None:
    rank = os.environ.get("RANK", "?")
    print(f"craftc: rank {rank}: {message}", file=sys.stderr)
    folder = os.environ.get(ERRORS_FOLDER)
    if folder:
        document = {"time": time.time(), "rank": rank, "kind": kind, "message": message, "exit_code": exit_code}
        (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(document))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
