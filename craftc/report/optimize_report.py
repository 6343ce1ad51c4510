"""The report of `craftc optimize`: what was found, planned, verified and written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from craftc.passes.compilation import Compilation
from craftc.report.compilation_report import compilation_document, compilation_text
from craftc.units import format_size


def optimize_report(name: str, compilation: Compilation) -> str:
    """The contents of report.txt; same inputs, same text."""
    passes = "\n".join(f"  {timing.printed}" for timing in compilation.timings)
    return f"craftc optimize: {name}\n\n{compilation.request}\n\npasses:\n{passes}\n\n{compilation_text(compilation)}\n"


def optimize_document(compilation: Compilation) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "request": compilation.request.stated,
        "passes": [timing.printed for timing in compilation.timings],
        **compilation_document(compilation),
    }


def files_list(folder: Path, files: Sequence[str]) -> str:
    """The files written, with sizes; the GPUs' files in one line."""
    lines = ["wrote"]
    for is_gpu, group in groupby(files, key=lambda file: "/gpu-" in file):
        names = list(group)
        sizes = [(folder / name).stat().st_size for name in names]
        if is_gpu and len(names) > 2:
            lines.append(f"  {folder / names[0]} ... {Path(names[-1]).name}  {_range(sizes)}")
        else:
            lines.extend(f"  {folder / name}  {format_size(size)}" for name, size in zip(names, sizes, strict=True))
    return "\n".join(lines)


def _range(sizes: Sequence[int]) -> str:
    smallest, largest = format_size(min(sizes)), format_size(max(sizes))
    return f"{smallest} each" if smallest == largest else f"{smallest} to {largest} each"
