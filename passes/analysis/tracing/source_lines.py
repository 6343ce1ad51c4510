"""The line of the model's own code that is running, or that raised: what its author can find."""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

from craftc.errors import one_line

_NOT_THE_MODEL = tuple(
    str(folder)
    for folder in (
        Path(torch.__file__).parent,
        Path(inspect.getfile(one_line)).parent,
        Path(__file__).resolve().parents[2],
    )
)
_LONGEST = 100


def running_line() -> str:
    """`model.py, line 12 (assert t <= self.block)` of the innermost frame of the model's code."""
    return next(_model_lines(_frames(sys._getframe(1))), "the model's forward")


def reason_with_line(error: Exception) -> str:
    """The error in one line, with the line of the model's code that raised it unless the message names it already."""
    raised = list(_model_lines(_traced(error.__traceback__)))
    reason = one_line(error).removeprefix("TraceError: ")
    return reason if not raised or raised[-1] in reason else f"{raised[-1]}: {reason}"


def _frames(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def _traced(traceback: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    while traceback is not None:
        yield traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next


def _model_lines(places: Iterable[tuple[CodeType, int]]) -> Iterator[str]:
    for code, line in places:
        file = code.co_filename
        if file.startswith((*_NOT_THE_MODEL, "<")) or code.co_name == "<module>":
            continue
        text = linecache.getline(file, line).strip()
        yield f"{_short(file)}, line {line}" + (f" ({text[:_LONGEST]})" if text else "")


def _short(file: str) -> str:
    """The path from the package on, for an installed one; else the file's name."""
    _, installed, inside = file.partition("site-packages/")
    return inside if installed else Path(file).name
