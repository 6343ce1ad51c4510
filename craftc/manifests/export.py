"""Writing a plan in a server's format: encoded, read back by the strict reader, compared slot by slot, then written in
one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craftc.errors import BadInput, Refused, VerificationFailed
from craftc.files.atomic_write import write_bytes
from craftc.manifests.format import ExportSource, PlacementFormat, target_of_plan
from craftc.manifests.padding import padding_cost
from craftc.manifests.registry import placement_format
from craftc.manifests.slots import fits, uniform_slots
from craftc.plans.replication_plan import ReplicationPlan
from craftc.plans.verifier import require_sound

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Export:
    """A file that was written, and the settings that go with it."""

    path: Path
    """The file."""
    format: str
    """Name of the format."""
    server: str
    """Server and version whose loader was read or run."""
    flags: tuple[str, ...]
    """Server flags and settings, one line each."""
    notes: tuple[str, ...]
    """What the format loses of this plan."""


def export_plan(
    plan: ReplicationPlan,
    format_name: str,
    path: Path,
    *,
    hidden_layers: int | None = None,
    mtp_layers: int = 0,
    model: nn.Module | None = None,
    example: dict[str, Any] | None = None,
) -> Export:
    """Write `plan` to `path` for the server behind `format_name`; nothing is written unless it reads back as the plan.

    hidden_layers: decoder layers of the model, dense ones included, if the file has a row for each; without it, the
    last MoE layer is assumed to be the last layer. mtp_layers: multi-token-prediction layers that follow, in the plan
    or not. model, example: for the ONNX format only. Raises BadInput, Refused (the server cannot hold the plan),
    VerificationFailed (a bug in a writer).
    """
    fmt = placement_format(format_name)
    decoder_layers = hidden_layers if fmt.covers_dense_layers else _with_mtp(plan, hidden_layers, mtp_layers)
    source = ExportSource(plan, target_of_plan(plan, decoder_layers), model, example)
    if fmt.suffix and path.suffix != fmt.suffix:
        raise BadInput(f"{path}: {fmt.name} recognises the file by its ending: give a name that ends in {fmt.suffix}")
    _check_plan(source, fmt)
    data = fmt.encode(source)
    _check_same(source, fmt, data)
    write_bytes(path, data)
    return Export(path, fmt.name, fmt.server, fmt.flags(source, path), _notes(source, fmt, hidden_layers, mtp_layers))


def _check_plan(source: ExportSource, fmt: PlacementFormat) -> None:
    """Refuse what the server cannot hold before anything is encoded."""
    plan = source.plan
    require_sound(plan)
    if fmt.slots == "uniform":
        uniform_slots(source.target)
    if fits(plan, fmt.slots):
        return
    counts = [layer.experts + layer.replicas for layer in plan.layers]
    where = "in all layers" if fmt.slots == "uniform" else "of a layer"
    raise Refused(
        f"{fmt.name} needs the same number of slots on every GPU {where}; this plan's layers have {min(counts)} to "
        f"{max(counts)} slots on {plan.topology.gpus} GPUs: plan with --uniform, or --pad it "
        f"({padding_cost(plan, fmt.slots)})"
    )


def _check_same(source: ExportSource, fmt: PlacementFormat, data: bytes) -> None:
    """Read the bytes back and compare every slot."""
    try:
        placements = fmt.decode(data, source.target)
    except BadInput as error:
        raise VerificationFailed(f"{fmt.name}: the file does not read back, nothing was written ({error})") from error
    for layer, found in zip(source.plan.layers, placements, strict=True):
        expected = layer.placement if fmt.keeps_slot_order else tuple(tuple(sorted(gpu)) for gpu in layer.placement)
        if found != expected:
            raise VerificationFailed(f"{fmt.name}: layer {layer.name} reads back differently, nothing was written")


def _with_mtp(plan: ReplicationPlan, hidden_layers: int | None, mtp_layers: int) -> int | None:
    """Decoder layers, with the multi-token-prediction layers if the plan holds any of them."""
    if hidden_layers is None or plan.layers[-1].index < hidden_layers:
        return hidden_layers
    return hidden_layers + mtp_layers


def _notes(source: ExportSource, fmt: PlacementFormat, hidden_layers: int | None, mtp_layers: int) -> tuple[str, ...]:
    plan, notes = source.plan, []
    if any(layer.shares is not None for layer in plan.layers):
        notes.append("the plan's unequal shares are not in the file: the server spreads tokens over copies its own way")
    if not fmt.keeps_slot_order:
        notes.append("slot order within a GPU is not in the file: the server takes ascending expert ids")
    if fmt.covers_dense_layers and hidden_layers is None:
        notes.append(
            f"the file is for {source.target.hidden_layers} decoder layers, up to the last MoE layer; "
            f"give --model-config if others follow it"
        )
    if hidden_layers is not None and mtp_layers and plan.layers[-1].index < hidden_layers:
        notes.append(
            f"multi-token prediction (from layer {hidden_layers} on) is not in the plan, nor in the file: if the "
            f"server builds it with experts of its own, plan with --mtp, or serve without it"
        )
    return tuple(notes)
