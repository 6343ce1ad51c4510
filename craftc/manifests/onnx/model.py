"""The rewritten model as one ONNX file, with the placement in the format's multi-device annotations and the plan in the
metadata.

What ONNX cannot say (the exchange of tokens between devices, whose sizes depend on the routing) is not in the file:
run on one device, it computes what the model computes, and a multi-device runtime finds in it where each copy is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from craftc.errors import BadInput, Unsupported
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement
from craftc.solvers.problem import Placement

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**31 - 1
"""Limit of a protobuf message, and so of a model in one file."""
_PLAN = "craftc.plan"


def encode(source: ExportSource) -> bytes:
    """The annotated model, checked by onnx and by our own validator. Raises Unsupported if it cannot be exported."""
    if source.model is None or source.example is None:
        raise BadInput("onnx: the model is written with the plan: give the model and example inputs")
    slot_bytes = sum((layer.experts + layer.replicas) * layer.expert_bytes for layer in source.plan.layers)
    if slot_bytes > MAX_BYTES:
        raise Unsupported(f"onnx: the slots take {slot_bytes} bytes, one ONNX file holds at most {MAX_BYTES}")
    _require_onnx()
    import onnx

    from craftc.manifests.onnx.annotations import violations
    from craftc.manifests.onnx.experts import export_model
    from craftc.plans.file import plan_document

    model = export_model(source.plan, source.model, source.example)
    model.metadata_props.add(key=_PLAN, value=json.dumps(plan_document(source.plan)))
    model.producer_name = "craftc"
    onnx.checker.check_model(model, full_check=True)
    found = violations(model)
    if found:
        raise BadInput(f"onnx: {found[0]}")
    return model.SerializeToString(deterministic=True)


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal, from annotations that the validator finds sound."""
    _require_onnx()
    from craftc.manifests.onnx.annotations import placements_of, violations

    where = "onnx placement"
    model = _parse(data, where)
    found = violations(model)
    if found:
        raise BadInput(f"{where}: {found[0]}")
    placements = placements_of(model, target.gpus)
    if sorted(placements) != [layer.index for layer in target.layers]:
        raise BadInput(
            f"{where}: annotated layers are {sorted(placements)}, the model has {len(target.layers)} MoE layers"
        )
    for layer in target.layers:
        check_placement(placements[layer.index], target.gpus, layer, f"{where}: layer {layer.index}")
    return tuple(placements[layer.index] for layer in target.layers)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """None: no server loads it."""
    return ()


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf has its own kinds of errors
        raise BadInput(f"{where}: not an ONNX model ({type(error).__name__})") from None


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unsupported(f"onnx: {error.name} is not installed: pip install 'craftc[onnx]'") from None


FORMAT = PlacementFormat(
    name="onnx",
    server="ONNX (IR 11, onnx 1.23)",
    slots="even",
    suffix=None,
    keeps_slot_order=True,
    needs_model=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
