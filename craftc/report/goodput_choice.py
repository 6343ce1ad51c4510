"""How `--budget auto` chose for a server, as text and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.report.text_table import text_table
from craftc.serving.goodput_curve import GoodputCurve
from craftc.units import format_size

_WHY_NONE = {"memory": "no KV left", "latency": "too slow"}
"""Why nothing is served: no request fits the KV cache, or none keeps the limit on the time between tokens."""


def goodput_choice_text(curve: GoodputCurve) -> str:
    """The rule and every number of replicas tried, the chosen one marked."""
    none = curve.points[0].worth
    rows = [
        (
            f"{point.replicas_per_gpu}{' <- chosen' if point.replicas_per_gpu == curve.chosen else ''}",
            format_size(point.worth.kv_bytes),
            f"{point.worth.balancedness:.3f}",
            f"{point.worth.goodput:.2f}" if point.worth.goodput else _WHY_NONE[point.worth.binds],
            f"{point.worth.goodput / none.goodput:.2f}" if none.goodput else "",
            "" if point.confirmation is None else f"{point.confirmation.goodput:.2f}",
        )
        for point in curve.points
    ]
    columns = ("replicas/GPU", "KV cache/GPU", "balancedness", "requests/s", "x first row", "within the limits")
    steps = curve.judged.judged.steps
    return (
        f"budget auto: {curve.rule}\n{text_table(columns, rows)}\n"
        f"planned from {curve.judged.planned.steps} steps, judged on {steps}; within the limits on latency: by event "
        f"simulation, for the chosen number and its neighbours"
    )


def goodput_choice_document(curve: GoodputCurve) -> dict[str, Any]:
    """The same as JSON values, with all that a point is worth."""
    points = [
        {
            "replicas_per_gpu": point.replicas_per_gpu,
            "worth": asdict(point.worth),
            "event_simulation": None if point.confirmation is None else asdict(point.confirmation),
        }
        for point in curve.points
    ]
    return {
        "rule": curve.rule,
        "chosen": curve.chosen,
        "band": list(curve.band),
        "points": points,
        "ceiling": asdict(curve.ceiling),
        "eplb": asdict(curve.eplb),
    }
