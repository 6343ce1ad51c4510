"""Whatever a pipeline has found so far, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from craftc.passes.compilation import Compilation
from craftc.plans.file import plan_document
from craftc.report.budget_report import budget_document, budget_text
from craftc.report.curve_report import curve_table
from craftc.report.inspection_report import layers_table
from craftc.report.loads_report import loads_document, loads_text
from craftc.report.phases_report import phases_document, phases_hint
from craftc.report.plan_report import comparison_table, layer_table, plan_summary, validation_text
from craftc.report.verification_report import verification_document, verification_text
from craftc.solvers.problem import BenefitCurves
from craftc.units import format_size


def compilation_text(compilation: Compilation) -> str:
    """One paragraph for everything known, in the order in which passes find it."""
    known = compilation
    parts: list[str] = []
    if known.knows("graph"):
        parts.append(f"graph of {len(known.graph.graph.nodes)} nodes")
    if known.knows("layers"):
        parts.append(layers_table(known.layers))
    if known.knows("loads"):
        parts.append(loads_text(known.loads))
    if known.knows("budget_bytes"):
        parts.append(f"budget {known.request.budget.text} = {format_size(_budget_bytes(known))}")
    if known.knows("curves"):
        parts.append(curve_table(known.curves, known.loads.layer_names))
    if known.knows("validated_curves") and known.validated_curves is not None:
        parts.append(f"on steps left out:\n{curve_table(known.validated_curves, known.loads.layer_names)}")
    if known.knows("budget_curve"):
        parts.append(budget_text(known.budget_curve))
    if known.knows("allocation"):
        replicas = ", ".join(map(str, known.allocation.replicas_L))
        parts.append(f"replicas per layer: {replicas} ({known.allocation.status}, gap {known.allocation.gap:.2%})")
    if known.knows("plan"):
        parts.extend((plan_summary(known.plan), comparison_table(known.plan)))
        if validation := validation_text(known.plan):
            parts.append("\n".join((validation, *(f"warning: {warning}" for warning in known.plan.warnings))))
        parts.append(layer_table(known.plan))
    if known.knows("phases") and (hint := phases_hint(known.phases)):
        parts.append(hint)
    if known.knows("verification"):
        parts.append(verification_text(known.verification))
    return "\n\n".join(parts)


def compilation_document(compilation: Compilation) -> dict[str, Any]:
    """The same as JSON values; null if not known yet."""
    known = compilation

    def stated(name: str, document: Callable[[], Any]) -> Any:
        return document() if known.knows(name) else None

    return {
        "graph_nodes": stated("graph", lambda: len(known.graph.graph.nodes)),
        "layers": stated("layers", lambda: [asdict(layer) for layer in known.layers]),
        "loads": stated("loads", lambda: loads_document(known.loads)),
        "budget_bytes": stated("budget_bytes", lambda: _budget_bytes(known)),
        "curves": stated("curves", lambda: _curves_document(known.curves)),
        "validated_curves": stated(
            "validated_curves", lambda: known.validated_curves and _curves_document(known.validated_curves)
        ),
        "budget_curve": stated("budget_curve", lambda: budget_document(known.budget_curve)),
        "replicas": stated("allocation", lambda: list(known.allocation.replicas_L)),
        "plan": stated("plan", lambda: plan_document(known.plan)),
        "phases": phases_document(known.phases) if known.knows("phases") and known.phases is not None else None,
        "verification": stated("verification", lambda: verification_document(known.verification)),
        "warnings": list(known.plan.warnings) if known.knows("plan") else [],
    }


def _budget_bytes(known: Compilation) -> int:
    """What is planned with, which `--budget auto` chooses; until then what it chooses within."""
    return known.problem.budget_bytes if known.knows("problem") else known.budget_bytes


def _curves_document(curves: BenefitCurves) -> dict[str, Any]:
    return {"candidates": list(curves.candidates_C), "balancedness": curves.balancedness_LC.tolist()}
