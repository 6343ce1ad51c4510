"""How a command ends: its result on stdout, everything else on stderr, an exit code, and never a traceback."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from craftc.errors import BadInput, CraftcError, folded, one_line

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
PIPE_CLOSED = 141
"""Exit code when the reader of stdout went away: 128 + SIGPIPE."""
DEBUG_VARIABLE = "CRAFTC_DEBUG"
"""Environment variable that shows tracebacks when set to 1."""


class Format(StrEnum):
    """What a command prints on stdout."""

    text = "text"
    json = "json"


@dataclass(frozen=True)
class Result:
    """What a command found."""

    document: Mapping[str, Any]
    """For `--format json`: the one document on stdout."""
    text: str
    """For `--format text`."""
    format: Format
    """Which of the two to print."""
    exit_code: int = 0
    """0 done, 1 the honest answer is no."""
    warnings: tuple[str, ...] = ()
    """Printed on stderr, one line each."""


def guarded(command: Callable[..., Result]) -> Callable[..., int]:
    """`command` as typer runs it: prints the result, turns every error into one line, returns the exit code."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> int:
        json_wanted = options.get("format") is Format.json
        try:
            with stdout_for_results_only():
                result = command(*args, **options)
            _print_warnings(result.warnings)
            _print_result(result)
        except CraftcError as error:
            _show_traceback_if_asked()
            if json_wanted:
                _print_document({"error": {"kind": type(error).__name__, "message": folded(str(error))}})
            return print_error(str(error), error.exit_code)
        except KeyboardInterrupt:
            return print_error("interrupted", INTERRUPTED)
        except BrokenPipeError:
            return silence_stdout()
        except MemoryError:
            _show_traceback_if_asked()
            return print_error("out of memory: use a machine with more, or a smaller model or fewer steps of loads")
        except Exception as error:
            _show_traceback_if_asked()
            return print_error(
                f"internal error, please report it with the output of {DEBUG_VARIABLE}=1: {one_line(error)}"
            )
        return result.exit_code

    return run


@contextmanager
def stdout_for_results_only() -> Iterator[None]:
    """Send what libraries and model files print to stderr, from Python and from C (solvers)."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def open_closed_streams() -> None:
    """Make standard streams that the caller closed (`>&-`) lead nowhere, so that no other file takes their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def print_error(message: str, exit_code: int = 2) -> int:
    """Print one line on stderr, whatever the message holds; returns `exit_code`."""
    sys.stderr.write(f"error: {folded(message)}\n")
    return exit_code


def silence_stdout() -> int:
    """After a broken pipe: keep the interpreter from complaining at exit; returns the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return PIPE_CLOSED


def _print_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        sys.stderr.write(f"warning: {folded(warning)}\n")


def _print_result(result: Result) -> None:
    if result.format is Format.json:
        _print_document(result.document)
    else:
        _print_text(result.text.rstrip("\n"))


def _print_document(document: Mapping[str, Any]) -> None:
    _print_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def _print_text(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence_stdout()
        raise BadInput(f"cannot write to stdout: {error.strerror}") from error


def _show_traceback_if_asked() -> None:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exc()
