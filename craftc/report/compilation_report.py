"""Whatever a pipeline has found so far, as text and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.passes.compilation import Compilation
from craftc.plans.file import plan_document
from craftc.report.budget_report import budget_document, budget_text
from craftc.report.curve_report import curve_table
from craftc.report.inspection_report import layers_table
from craftc.report.loads_report import loads_document, loads_text
from craftc.report.plan_report import comparison_table, layer_table, plan_summary, validation_text
from craftc.report.verification_report import verification_document, verification_text
from craftc.solvers.problem import BenefitCurves
from craftc.units import format_size


def compilation_text(compilation: Compilation) -> str:
    """One paragraph for everything known, in the order in which passes find it."""
    known = compilation
    parts: list[str] = []
    if known.graph is not None:
        parts.append(f"graph of {len(known.graph.graph.nodes)} nodes")
    if known.layers is not None:
        parts.append(layers_table(known.layers))
    if known.loads is not None:
        parts.append(loads_text(known.loads))
    if known.budget_bytes is not None:
        parts.append(f"budget {known.budget_requested} = {format_size(known.budget_bytes)}")
    if known.curves is not None and known.loads is not None:
        parts.append(curve_table(known.curves, known.loads.layer_names))
    if known.validated_curves is not None and known.loads is not None:
        parts.append(f"on steps left out:\n{curve_table(known.validated_curves, known.loads.layer_names)}")
    if known.budget_curve is not None:
        parts.append(budget_text(known.budget_curve))
    if known.allocation is not None:
        replicas = ", ".join(map(str, known.allocation.replicas_L))
        parts.append(f"replicas per layer: {replicas} ({known.allocation.status}, gap {known.allocation.gap:.2%})")
    if known.plan is not None:
        parts.extend((plan_summary(known.plan), comparison_table(known.plan)))
        if validation := validation_text(known.plan):
            parts.append("\n".join((validation, *(f"warning: {warning}" for warning in known.plan.warnings))))
        parts.append(layer_table(known.plan))
    if known.verification is not None:
        parts.append(verification_text(known.verification))
    return "\n\n".join(parts)


def compilation_document(compilation: Compilation) -> dict[str, Any]:
    """The same as JSON values; null where it is not known yet."""
    known = compilation
    return {
        "graph_nodes": None if known.graph is None else len(known.graph.graph.nodes),
        "layers": None if known.layers is None else [asdict(layer) for layer in known.layers],
        "loads": None if known.loads is None else loads_document(known.loads),
        "budget_bytes": known.budget_bytes,
        "curves": None if known.curves is None else _curves_document(known.curves),
        "validated_curves": None if known.validated_curves is None else _curves_document(known.validated_curves),
        "budget_curve": None if known.budget_curve is None else budget_document(known.budget_curve),
        "replicas": None if known.allocation is None else list(known.allocation.replicas_L),
        "plan": None if known.plan is None else plan_document(known.plan),
        "verification": None if known.verification is None else verification_document(known.verification),
        "warnings": [] if known.plan is None else list(known.plan.warnings),
    }


def _curves_document(curves: BenefitCurves) -> dict[str, Any]:
    return {"candidates": list(curves.candidates_C), "balancedness": curves.balancedness_LC.tolist()}
