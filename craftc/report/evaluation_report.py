"""A plan judged on loads, as text and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.plans.evaluation import Evaluation
from craftc.report.text_table import text_table


def evaluation_text(evaluation: Evaluation) -> str:
    """Balancedness per layer and overall, next to contiguous placement and the bound; step time overall."""
    rows = [
        (layer.name, str(layer.replicas), f"{layer.contiguous:.3f}", f"{layer.planned:.3f}", f"{layer.bound:.3f}")
        for layer in evaluation.layers
    ]
    overall = evaluation
    rows.append(
        (
            "all layers",
            str(sum(layer.replicas for layer in evaluation.layers)),
            f"{overall.contiguous:.3f}",
            f"{overall.planned:.3f}",
            f"{overall.bound:.3f}",
        )
    )
    own = "the plan's own loads" if evaluation.own_loads else "loads the plan was not made from"
    head = f"balancedness over {evaluation.steps} steps of {own}"
    table = text_table(("layer", "replicas", "contiguous", "planned", "bound"), rows)
    time = f"step time (1 is perfect): contiguous {overall.contiguous_step_time:.3f}, planned {overall.step_time:.3f}"
    return f"{head}\n{table}\n{time}"


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """The same as JSON values."""
    return asdict(evaluation)
