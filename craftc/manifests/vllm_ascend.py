"""vllm-ascend's expert map: JSON, MoE layers in construction order, a list of experts per device.

Source: docs/servers-vllm-ascend.md (182b75e; its reader was run). An expert that is on a device twice misroutes
tokens there without an error.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, validate
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement, check_widths, redundant_experts
from craftc.solvers.problem import Placement


class _Device(BaseModel):
    model_config = ConfigDict(extra="forbid")
    device_id: int
    device_expert: list[int]


class _Layer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layer_id: int
    device_count: int
    device_list: list[_Device]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    moe_layer_count: int
    layer_list: list[_Layer]


def encode(source: ExportSource) -> bytes:
    """Ids follow the order, because the server only reads the order."""
    layers = ",\n".join(
        json.dumps(
            {
                "layer_id": ordinal,
                "device_count": source.target.gpus,
                "device_list": [
                    {"device_id": gpu, "device_expert": list(experts)} for gpu, experts in enumerate(layer.placement)
                ],
            }
        )
        for ordinal, layer in enumerate(source.plan.layers)
    )
    return f'{{"moe_layer_count": {len(source.plan.layers)}, "layer_list": [\n{layers}\n]}}\n'.encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal. Counts and ids must agree with the order, which the server does not check."""
    where = "vllm-ascend placement"
    document = validate(_Document, parse_json(data, where), where)
    if not document.moe_layer_count == len(document.layer_list) == len(target.layers):
        raise BadInput(
            f"{where}: moe_layer_count {document.moe_layer_count}, {len(document.layer_list)} layers listed, "
            f"{len(target.layers)} MoE layers expected"
        )
    placements = []
    for ordinal, (entry, layer) in enumerate(zip(document.layer_list, target.layers, strict=True)):
        layer_where = f"{where}: layer {ordinal}"
        devices = [device.device_id for device in entry.device_list]
        if entry.layer_id != ordinal or entry.device_count != len(devices) or devices != list(range(len(devices))):
            raise BadInput(
                f"{layer_where}: layer_id, device_count or device_id disagree with the order, which the server goes by"
            )
        placement = tuple(tuple(device.device_expert) for device in entry.device_list)
        check_placement(placement, target.gpus, layer, layer_where)
        placements.append(placement)
    check_widths(placements, where)
    return tuple(placements)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """The server allocates slots from `num_redundant_experts`, so it goes with the path."""
    config = {"expert_map_path": str(path), "num_redundant_experts": redundant_experts(source.plan)}
    return (
        "--enable-expert-parallel",
        f"--additional-config {shlex.quote(json.dumps({'eplb_config': config}))}",
    )


FORMAT = PlacementFormat(
    name="vllm-ascend",
    server="vllm-ascend 182b75e (Model Runner V1)",
    slots="uniform",
    suffix=".json",
    keeps_slot_order=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
