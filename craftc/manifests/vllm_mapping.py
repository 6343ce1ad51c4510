"""vLLM's proposed mapping record (pull request 41141): one JSON line, MoE ordinals as keys.

Source: docs/servers-vllm.md (the branch's source was read). No released vLLM reads a placement file.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, validate
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement, join_row, redundant_experts, split_row, uniform_slots
from craftc.solvers.problem import Placement


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")
    record_type: Literal["eplb_initial_mapping"]
    version: Literal[1]
    num_redundant_experts: int
    num_slots: int
    initial_global_assignments: dict[str, list[int]]


def encode(source: ExportSource) -> bytes:
    """One record, one line."""
    redundant = redundant_experts(source.plan)
    record = {
        "record_type": "eplb_initial_mapping",
        "version": 1,
        "num_redundant_experts": redundant,
        "num_slots": uniform_slots(source.target) + redundant,
        "initial_global_assignments": {
            str(ordinal): join_row(layer.placement) for ordinal, layer in enumerate(source.plan.layers)
        },
    }
    return (json.dumps(record) + "\n").encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal from exactly one record."""
    where = "vllm placement"
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) != 1:
        raise BadInput(f"{where}: {len(lines)} records, expected one line with one mapping record")
    record = validate(_Record, parse_json(lines[0], where), where)
    rows = record.initial_global_assignments
    expected = [str(ordinal) for ordinal in range(len(target.layers))]
    if set(rows) != set(expected):
        raise BadInput(f"{where}: {len(rows)} layers, expected the MoE ordinals 0..{len(expected) - 1}")
    placements = []
    for ordinal, layer in zip(expected, target.layers, strict=True):
        row_where = f"{where}: layer {ordinal}"
        if not len(rows[ordinal]) == record.num_slots == layer.experts + record.num_redundant_experts:
            raise BadInput(
                f"{row_where}: {len(rows[ordinal])} slots, num_slots {record.num_slots}, {layer.experts} experts "
                f"and num_redundant_experts {record.num_redundant_experts} disagree"
            )
        placement = split_row(rows[ordinal], target.gpus, row_where)
        check_placement(placement, target.gpus, layer, row_where)
        placements.append(placement)
    return tuple(placements)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """Only a build with pull request 41141 knows the last two settings."""
    config = {
        "num_redundant_experts": redundant_experts(source.plan),
        "initial_mapping_path": str(path),
        "disable_online_rebalancing": True,
    }
    return ("--enable-expert-parallel", "--enable-eplb", f"--eplb-config {shlex.quote(json.dumps(config))}")


FORMAT = PlacementFormat(
    name="vllm",
    server="vLLM with pull request 41141 (open)",
    slots="uniform",
    suffix=None,
    keeps_slot_order=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
