"""Benefit curves as text: what replicas buy in every layer.

Axes: L layers, C candidate replica counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from craftc.report.text_table import text_table
from craftc.solvers.problem import BenefitCurves

_MOST_COLUMNS = 10


def curve_table(curves: BenefitCurves, layer_names: Sequence[str]) -> str:
    """Balancedness of every layer by number of replicas, and the mean over layers; ten columns at most."""
    candidates = len(curves.candidates_C)
    shown = min(candidates, _MOST_COLUMNS)
    columns = [round(number * (candidates - 1) / max(1, shown - 1)) for number in range(shown)]
    rows = [
        (name, *(f"{balancedness_C[column]:.3f}" for column in columns))
        for name, balancedness_C in zip(layer_names, curves.balancedness_LC, strict=True)
    ]
    mean_C = curves.balancedness_LC.mean(axis=0)
    rows.append(("mean", *(f"{mean_C[column]:.3f}" for column in columns)))
    return text_table(("balancedness by replicas", *(f"+{curves.candidates_C[column]}" for column in columns)), rows)
