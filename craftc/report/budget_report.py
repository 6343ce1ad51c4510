"""How balancedness grows with replicas per GPU, as text, as JSON values and as a drawing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from craftc.files.atomic_write import atomic_file
from craftc.report.text_table import text_table
from craftc.solvers.allocation.auto_budget import RULE, BudgetCurve
from craftc.units import format_size

_MOST_ROWS = 16


def budget_text(curve: BudgetCurve) -> str:
    """The rule, and at most sixteen points and the chosen one."""
    most = len(curve.points) - 1
    shown = {round(number * most / (_MOST_ROWS - 1)) for number in range(_MOST_ROWS)} | {curve.chosen}
    rows = [
        (
            f"{point.replicas_per_gpu}{' <- chosen' if point.replicas_per_gpu == curve.chosen else ''}",
            format_size(point.bytes_per_gpu),
            f"{point.balancedness:.4f}",
            f"{point.marginal_gain:.4f}",
        )
        for point in curve.points
        if point.replicas_per_gpu in shown
    ]
    columns = ("replicas/GPU", "memory/GPU", "balancedness", "gain of the last one")
    by = "the best allocation of each budget" if curve.exact else "greedy allocation of each budget"
    return f"budget auto: {RULE}\n{text_table(columns, rows)}\nestimated with {by}"


def budget_document(curve: BudgetCurve) -> dict[str, Any]:
    """All points as JSON values, with the rule."""
    return {"rule": RULE, **asdict(curve)}


def draw_budget_curve(curve: BudgetCurve, path: Path) -> None:
    """Write the curve to `path` as PNG, the chosen point marked. Raises BadInput if it cannot be written."""
    from matplotlib.figure import Figure

    counts = [point.replicas_per_gpu for point in curve.points]
    reached = [point.balancedness for point in curve.points]
    chosen = curve.points[curve.chosen]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(counts, reached)
    axis.plot([chosen.replicas_per_gpu], [chosen.balancedness], "o", color="C3")
    axis.annotate(
        f"chosen: {curve.chosen} per GPU, {format_size(chosen.bytes_per_gpu)}, {chosen.balancedness:.3f}",
        (chosen.replicas_per_gpu, chosen.balancedness),
        xytext=(12, -16),
        textcoords="offset points",
    )
    axis.set_xlabel("replicas per GPU, all layers together")
    axis.set_ylabel("balancedness")
    axis.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
