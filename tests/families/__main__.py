"""`python -m tests.families [SOURCE ...]`: every MoE architecture of the installed transformers, one process each.

Prints a table: family, layers, found, optimised, reason. Exits with 1 if fewer than the asked number are optimised.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.families.row import Row
from tests.families.tiny import moe_sources

PROCESSES = 2
SECONDS = 600
"""Time-out of one architecture."""
SHARE = 0.94
"""Share of the classes that run on text which must be found whole and optimised: 74 of 78 in transformers 5.24."""


def main(sources: Iterable[str]) -> int:
    """Print the table of `sources`, or of all."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        table = [row for rows in pool.map(rows_of, tuple(sources) or moe_sources()) for row in rows]
    print("| family | class | layers | found | optimised | s | reason |\n|---|---|---|---|---|---|---|")
    for row in table:
        done = "yes" if row.optimized else "no"
        print(
            f"| {row.source} | {row.model} | {row.layers} | {row.found} | {done} | {row.seconds:.0f} | {row.reason} |"
        )
    run = [row for row in table if row.layers]
    whole = [row for row in run if row.optimized and row.found == row.layers]
    text = [row for row in run if not row.model.endswith("ForConditionalGeneration")]
    found = {row.source for row in whole}
    print(f"\n{len(found)} of {len({row.source for row in table})} families, {len(whole)} of {len(run)} classes")
    print(f"text models: {sum(row in whole for row in text)} of {len(text)}")
    return 0 if len(whole) >= SHARE * len(run) else 1


def rows_of(source: str) -> list[Row]:
    """The rows of one modeling file, from a process of its own."""
    command = [sys.executable, "-m", "tests.families.row", source]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [Row(source, "", 0, 0, False, f"not done in {SECONDS} s", SECONDS)]
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    last_line = (done.stderr.strip() or "no output").splitlines()[-1]
    return rows or [Row(source, "", 0, 0, False, f"exit {done.returncode}: {last_line}", 0.0)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
