"""SGLang's explicit expert map: JSON with one key, a row of slots for every decoder layer, dense ones included.

Source: docs/servers-sglang.md (0.5.23; its loader was run). Any other key is a TypeError there, and -1 silently
becomes expert E-1.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, validate
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import (
    check_placement,
    check_widths,
    join_row,
    redundant_experts,
    split_row,
    uniform_slots,
)
from craftc.solvers.problem import Placement


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    physical_to_logical_map: list[list[int]]


def encode(source: ExportSource) -> bytes:
    """One row per decoder layer; a dense layer's row only has to cover all experts."""
    experts = uniform_slots(source.target)
    slots = experts + redundant_experts(source.plan)
    rows = [[slot % experts for slot in range(slots)] for _ in range(source.target.hidden_layers)]
    for layer in source.plan.layers:
        rows[layer.index] = join_row(layer.placement)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return f'{{"physical_to_logical_map": [\n{lines}\n]}}\n'.encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements of the MoE layers. Every row, dense ones included, must be as wide as the others and hold every
    expert.
    """
    where = "sglang placement"
    document = validate(_Document, parse_json(data, where), where)
    rows = document.physical_to_logical_map
    if len(rows) != target.hidden_layers:
        raise BadInput(f"{where}: {len(rows)} rows for a model of {target.hidden_layers} decoder layers")
    moe_layers = {layer.index: layer for layer in target.layers}
    stand_in = target.layers[0]
    placements = []
    for index, row in enumerate(rows):
        row_where = f"{where}: row {index}"
        placement = split_row(row, target.gpus, row_where)
        check_placement(placement, target.gpus, moe_layers.get(index, stand_in), row_where)
        placements.append(placement)
    check_widths(placements, where)
    return tuple(placements[layer.index] for layer in target.layers)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """Dispatch must be dynamic: the default (static) sends all tokens of a rank to one copy, not evenly to all
    copies."""
    return (
        f"--ep-size {source.target.gpus}",
        f"--ep-num-redundant-experts {redundant_experts(source.plan)}",
        f"--init-expert-location {shlex.quote(str(path))}",
        "--ep-dispatch-algorithm dynamic",
    )


FORMAT = PlacementFormat(
    name="sglang",
    server="SGLang 0.5.23",
    slots="uniform",
    suffix=".json",
    keeps_slot_order=True,
    covers_dense_layers=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
