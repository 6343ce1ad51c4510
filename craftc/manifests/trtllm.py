"""TensorRT-LLM's MoE load balancer section: YAML with three keys, layers by decoder index, without dense layers.

Source: docs/servers-tensorrt-llm.md (source read, not run). The server rejects other keys, and every MoE layer must be
listed.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_yaml, validate
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement, join_row, redundant_experts, split_row, uniform_slots
from craftc.solvers.problem import Placement


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    num_slots: int = Field(ge=1)
    initial_global_assignments: dict[int, list[int]]
    layer_updates_per_iter: int = Field(ge=0, le=0)


def encode(source: ExportSource) -> bytes:
    """`layer_updates_per_iter: 0` leaves the placement unchanged."""
    slots = uniform_slots(source.target) + redundant_experts(source.plan)
    lines = [f"num_slots: {slots}", "initial_global_assignments:"]
    for layer in source.plan.layers:
        lines.append(f"  {layer.index}: [{', '.join(map(str, join_row(layer.placement)))}]")
    lines.append("layer_updates_per_iter: 0")
    return ("\n".join(lines) + "\n").encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements of exactly the target's layers; a file that lets the server move copies is not a placement."""
    where = "trtllm placement"
    document = validate(_Document, parse_yaml(data, where), where)
    rows, indices = document.initial_global_assignments, [layer.index for layer in target.layers]
    if sorted(rows) != indices:
        odd = sorted(set(rows) ^ set(indices))
        raise BadInput(
            f"{where}: {len(rows)} layers, the model has {len(indices)} MoE layers; "
            f"decoder layer {odd[0]} is in only one of the two"
        )
    placements = []
    for layer in target.layers:
        row_where = f"{where}: layer {layer.index}"
        if len(rows[layer.index]) != document.num_slots:
            raise BadInput(f"{row_where}: {len(rows[layer.index])} slots, but num_slots is {document.num_slots}")
        placement = split_row(rows[layer.index], target.gpus, row_where)
        check_placement(placement, target.gpus, layer, row_where)
        placements.append(placement)
    return tuple(placements)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """The section is ignored without attention data parallelism."""
    return (
        f"moe_expert_parallel_size: {source.target.gpus}",
        "enable_attention_dp: true",
        f"moe_config: {{load_balancer: {json.dumps(str(path))}}}",
    )


FORMAT = PlacementFormat(
    name="trtllm",
    server="TensorRT-LLM (files of 2025-2026)",
    slots="uniform",
    suffix=None,
    keeps_slot_order=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
