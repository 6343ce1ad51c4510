"""vLLM's other proposal (pull request 49572): a JSON list of one slot list per MoE layer, or one list for all layers.

Source: docs/servers-vllm.md (the pull request was read). No released vLLM reads a placement file.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pydantic import ConfigDict, RootModel

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, validate
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement, check_widths, join_row, redundant_experts, split_row
from craftc.solvers.problem import Placement


class _Rows(RootModel[list[list[int]]]):
    model_config = ConfigDict(strict=True)


def encode(source: ExportSource) -> bytes:
    """Always one list per layer."""
    rows = ",\n".join(json.dumps(join_row(layer.placement), separators=(",", ":")) for layer in source.plan.layers)
    return f"[\n{rows}\n]\n".encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal; one flat list stands for every layer."""
    where = "vllm-list placement"
    value = parse_json(data, where)
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value] * len(target.layers)
    rows = validate(_Rows, value, where).root
    if len(rows) != len(target.layers):
        raise BadInput(f"{where}: {len(rows)} lists for {len(target.layers)} MoE layers")
    placements = []
    for ordinal, (row, layer) in enumerate(zip(rows, target.layers, strict=True)):
        row_where = f"{where}: layer {ordinal}"
        placement = split_row(row, target.gpus, row_where)
        check_placement(placement, target.gpus, layer, row_where)
        placements.append(placement)
    check_widths(placements, where)
    return tuple(placements)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """Only a build with pull request 49572 knows the last setting."""
    config = {"num_redundant_experts": redundant_experts(source.plan), "initial_expert_map_path": str(path)}
    return ("--enable-expert-parallel", "--enable-eplb", f"--eplb-config {shlex.quote(json.dumps(config))}")


FORMAT = PlacementFormat(
    name="vllm-list",
    server="vLLM with pull request 49572 (open)",
    slots="uniform",
    suffix=None,
    keeps_slot_order=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
