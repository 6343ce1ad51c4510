"""Plain text tables: for terminals, files and golden tests alike."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a rule below its head. The first column is aligned left, the others, being numbers, right."""
    widths = [max(len(row[column]) for row in (columns, *rows)) for column in range(len(columns))]
    rule = ["-" * width for width in widths]
    return "\n".join(_line(cells, widths) for cells in (columns, rule, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(aligned).rstrip()
