"""docs/cli.md, made from the commands' own help: `python -m craftc.cli.reference > docs/cli.md`."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout

from craftc.cli.app import COMMANDS, run

_WIDTH = "100"
_HEAD = """# The commands

Made from `craftc COMMAND --help` by `python -m craftc.cli.reference > docs/cli.md`; a test keeps it current.

Results go to stdout, progress and errors to stderr. `--format json` prints one document on stdout and nothing else; an
error is then `{"error": {"kind": ..., "message": ...}}`. Exit codes: 0 done, 1 the answer is no (infeasible, or a
verification failed), 2 could not run, 130 interrupted. `CRAFTC_DEBUG=1` adds the traceback to an error.
"""


def cli_reference() -> str:
    """The page, as Markdown."""
    pages = [_HEAD, _section("craftc", [])]
    pages.extend(_section(f"craftc {command.__name__}", [command.__name__]) for command in COMMANDS)
    return "\n".join(pages)


def _section(title: str, arguments: list[str]) -> str:
    kept = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            run([*arguments, "--help"])
    finally:
        if kept is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = kept
    lines = "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
    return f"## {title}\n\n```\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
