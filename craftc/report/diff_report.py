"""Changes between two plans, as text and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.plans.diff import Move, PlanDiff
from craftc.report.text_table import text_table
from craftc.units import format_size

_MOST_MOVES = 40
"""Most moves listed in text; JSON has all."""


def diff_text(diff: PlanDiff) -> str:
    """What GPUs receive, one line per GPU that changes, then the moves one by one."""
    parts = [diff_summary(diff)]
    rows = [
        (
            f"GPU {gpu.gpu}",
            str(gpu.received),
            format_size(gpu.received_bytes),
            str(gpu.dropped),
            str(gpu.reordered),
        )
        for gpu in diff.gpus
        if gpu.received or gpu.dropped or gpu.reordered
    ]
    if rows:
        parts.append(text_table(("", "experts received", "bytes received", "dropped", "reordered"), rows))
    if diff.moves:
        parts.append("\n".join(_move_line(move) for move in diff.moves[:_MOST_MOVES]))
    if len(diff.moves) > _MOST_MOVES:
        parts.append(f"... and {len(diff.moves) - _MOST_MOVES} more moves; --format json lists all")
    return "\n\n".join(parts)


def diff_document(diff: PlanDiff) -> dict[str, Any]:
    """The same as JSON values, every move included."""
    return {"moved_bytes": diff.moved_bytes, **asdict(diff)}


def diff_summary(diff: PlanDiff) -> str:
    """How much moves and what it gains: a few lines."""
    before, after = (None if value is None else f"{value:.3f}" for value in diff.balancedness)
    receivers = sum(gpu.received > 0 for gpu in diff.gpus)
    lines = [
        f"{len(diff.moves)} experts to receive on {receivers} of {len(diff.gpus)} GPUs, "
        f"{format_size(diff.moved_bytes)} in total"
    ]
    if before and after:
        lines.append(f"balancedness {before} in the old plan, {after} in the new one, each on its own loads")
    if diff.changed_shares:
        lines.append(f"{len(diff.changed_shares)} layers keep their copies and change their shares")
    if not diff.moves and not any(gpu.dropped or gpu.reordered for gpu in diff.gpus):
        lines.append("no copy moves")
    return "\n".join(lines)


def _move_line(move: Move) -> str:
    where = "into a new slot" if move.replaces is None else f"in place of expert {move.replaces}"
    size = format_size(move.bytes)
    return f"GPU {move.gpu}, {move.layer}, slot {move.slot}: expert {move.expert} {where} ({size})"
