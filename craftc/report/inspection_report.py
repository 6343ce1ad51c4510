"""What a model's MoE layers are, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from craftc.models.moe_layer import MoELayer
from craftc.passes.compilation import NearMiss, grouped
from craftc.report.text_table import text_table
from craftc.units import format_size


def inspection_text(name: str, layers: Sequence[MoELayer], near_misses: tuple[NearMiss, ...]) -> str:
    """A table of the MoE layers, then the near misses with their reasons."""
    parts = [f"{name}: no MoE layer"]
    if layers:
        experts_bytes = sum(layer.experts * layer.expert_bytes for layer in layers)
        parts = [f"{name}: {len(layers)} MoE layers, experts take {format_size(experts_bytes)}", layers_table(layers)]
    if near_misses:
        parts.append("almost MoE layers, left unchanged:")
        parts.extend(f"  {miss.name}: {miss.reason}" for miss in grouped(near_misses))
    return "\n".join(parts)


def layers_table(layers: Sequence[MoELayer]) -> str:
    """One line per MoE layer."""
    rows = [
        (
            layer.name,
            str(layer.index),
            str(layer.experts),
            str(layer.top_k or "?"),
            format_size(layer.expert_bytes),
            layer.layout.replace("_", " "),
            layer.router or "?",
        )
        for layer in layers
    ]
    return text_table(("experts module", "block", "experts", "top-k", "expert size", "layout", "router"), rows)


def inspection_document(name: str, layers: Sequence[MoELayer], near_misses: Sequence[NearMiss]) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "model": name,
        "layers": [asdict(layer) for layer in layers],
        "near_misses": [asdict(miss) for miss in near_misses],
    }
