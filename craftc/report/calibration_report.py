"""How well fitted constants predict what was measured, as text and as JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from craftc.serving.calibration import Calibration, Comparison


def calibration_text(calibration: Calibration) -> str:
    """What was fitted, and by how much predictions are off before, after, and for rows that were not fitted to."""
    rows = len({cell.line for cell in calibration.comparisons})
    fitted = (
        f"calibrated with {len(calibration.comparisons)} measured values of {rows} rows: "
        f"{', '.join(calibration.freed) or 'no constant, the measurements do not tell any apart'}"
    )
    worst = max(calibration.comparisons, key=_off)
    off = (
        f"predictions are off by {_percent(calibration.before)} before, {_percent(calibration.after)} after, "
        f"{_percent(calibration.left_out)} for each row by a fit to the others (root mean square); worst: line "
        f"{worst.line}, {worst.quantity} {worst.after - 1:+.0%}"
    )
    return f"{fitted}\n{off}"


def calibration_document(calibration: Calibration) -> dict[str, Any]:
    """The same as JSON values, without the cluster."""
    document = asdict(calibration)
    del document["cluster"]
    return document


def _off(cell: Comparison) -> float:
    """How far the prediction is off, as a log ratio."""
    return abs(math.log(cell.after)) if cell.after > 0 else math.inf


def _percent(rms_log_ratio: float) -> str:
    return f"{math.expm1(rms_log_ratio):.1%}"
