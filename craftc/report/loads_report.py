"""Measured loads as text and as JSON values: how skewed every layer is.

Axes: L layers, E experts.
"""

from __future__ import annotations

from typing import Any

from craftc.loads.load_profile import LoadProfile
from craftc.report.text_table import text_table


def loads_text(loads: LoadProfile) -> str:
    """Steps, tokens, and the skew of every layer."""
    rows = [
        (row["name"], f"{row['tokens']:,}", f"{row['max_over_mean']:.2f}", f"{row['idle_experts']}")
        for row in _layers(loads)
    ]
    head = f"{loads.steps} steps, {loads.layers} layers, {loads.experts_text}; from {loads.provenance or 'arrays'}"
    return f"{head}\n{text_table(('layer', 'routed tokens', 'max/mean load', 'idle experts'), rows)}"


def loads_document(loads: LoadProfile) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "steps": loads.steps,
        "experts": loads.experts,
        "sha256": loads.sha256,
        "provenance": loads.provenance,
        "layers": _layers(loads),
    }


def _layers(loads: LoadProfile) -> list[dict[str, Any]]:
    load_LE = loads.counts_SLE.sum(axis=0)
    return [
        {
            "name": name,
            "tokens": int(load_E.sum()),
            "max_over_mean": float(load_E.max() / load_E[:experts].mean()),
            "idle_experts": int((load_E[:experts] == 0).sum()),
        }
        for name, experts, load_E in zip(loads.layer_names, loads.experts_L, load_LE, strict=True)
    ]
