"""The command line: one command a file; the only room that imports typer and rich."""

from __future__ import annotations

import gc
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run `craftc` with `arguments` (default: the process's own); returns the exit code."""
    # Planning starts threads of its own, and numpy's would only compete with them. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imports make a million objects that live until the end: looking through them for garbage takes a second.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    from craftc.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
