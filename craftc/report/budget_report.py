"""What replicas per GPU buy, balancedness or step time, as text, as JSON values and as a drawing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from craftc.files.atomic_write import atomic_file
from craftc.report.text_table import text_table
from craftc.solvers.allocation.auto_budget import RULE, BudgetCurve
from craftc.units import format_size

_MOST_ROWS = 16
_MEASURES = {"balancedness": "balancedness", "step-time": "step time"}


def budget_text(curve: BudgetCurve) -> str:
    """The rule, and at most sixteen points and the chosen one."""
    most = len(curve.points) - 1
    shown = {round(number * most / (_MOST_ROWS - 1)) for number in range(_MOST_ROWS)} | {curve.chosen}
    rows = [
        (
            f"{point.replicas_per_gpu}{' <- chosen' if point.replicas_per_gpu == curve.chosen else ''}",
            format_size(point.bytes_per_gpu),
            f"{point.reached:.4f}",
            f"{point.marginal_gain:.4f}",
        )
        for point in curve.points
        if point.replicas_per_gpu in shown
    ]
    columns = ("replicas/GPU", "memory/GPU", _MEASURES[curve.objective], "gain of the last one")
    by = "the best allocation of each budget" if curve.exact else "greedy allocation of each budget"
    return f"budget auto: {_rule(curve)}\n{text_table(columns, rows)}\nestimated with {by}"


def budget_document(curve: BudgetCurve) -> dict[str, Any]:
    """All points as JSON values, with the rule; what a point reaches is called `balancedness` or `step_time`."""
    name = curve.objective.replace("-", "_")
    points = [
        {name if key == "reached" else key: value for key, value in asdict(point).items()} for point in curve.points
    ]
    return {"rule": _rule(curve), **asdict(curve), "points": points}


def draw_budget_curve(curve: BudgetCurve, path: Path) -> None:
    """Write the curve to `path` as PNG, the chosen point marked. Raises BadInput if it cannot be written."""
    from matplotlib.figure import Figure

    counts = [point.replicas_per_gpu for point in curve.points]
    reached = [point.reached for point in curve.points]
    chosen = curve.points[curve.chosen]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(counts, reached)
    axis.plot([chosen.replicas_per_gpu], [chosen.reached], "o", color="C3")
    axis.annotate(
        f"chosen: {curve.chosen} per GPU, {format_size(chosen.bytes_per_gpu)}, {chosen.reached:.3f}",
        (chosen.replicas_per_gpu, chosen.reached),
        xytext=(12, 12 if curve.objective == "step-time" else -16),
        textcoords="offset points",
    )
    axis.set_xlabel("replicas per GPU, all layers together")
    axis.set_ylabel(_MEASURES[curve.objective])
    axis.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _rule(curve: BudgetCurve) -> str:
    return RULE if curve.objective == "balancedness" else f"{RULE}; a gain is {_MEASURES[curve.objective]} saved"
