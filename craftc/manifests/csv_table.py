"""A plan as a table for people: one line per layer and expert. No server reads it; craftc does."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from craftc.errors import BadInput
from craftc.files.outside_documents import decode_text
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import LayerPlan
from craftc.solvers.problem import Placement

_COLUMNS = ["layer", "index", "expert", "copies", "gpus", "slots"]


def encode(source: ExportSource) -> bytes:
    """`gpus` and `slots` hold one number per copy, separated by spaces; a slot is a position on its GPU."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for layer in source.plan.layers:
        homes_E = _homes(layer)
        for expert, homes in enumerate(homes_E):
            gpus, slots = " ".join(str(gpu) for gpu, _ in homes), " ".join(str(slot) for _, slot in homes)
            writer.writerow([layer.name, layer.index, expert, len(homes), gpus, slots])
    return buffer.getvalue().encode()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal. Lines may come in any order; every slot must be filled once."""
    where = "csv placement"
    homes: dict[int, dict[tuple[int, int], int]] = {layer.index: {} for layer in target.layers}
    names = {layer.index: layer.name for layer in target.layers}
    try:
        lines = list(csv.reader(io.StringIO(decode_text(data, where)), strict=True))
    except csv.Error as error:
        raise BadInput(f"{where}: not a CSV file ({error})") from None
    if not lines or lines[0] != _COLUMNS:
        raise BadInput(f"{where}: line 1 must be {','.join(_COLUMNS)}")
    for number, line in enumerate(lines[1:], start=2):
        _add_line(homes, names, line, f"{where}: line {number}")
    return tuple(_placement(homes[layer.index], target.gpus, layer, where) for layer in target.layers)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """None: the table is for people."""
    return ()


def _homes(layer: LayerPlan) -> list[list[tuple[int, int]]]:
    """GPU and slot of every copy, by expert."""
    homes_E: list[list[tuple[int, int]]] = [[] for _ in range(layer.experts)]
    for gpu, experts in enumerate(layer.placement):
        for slot, expert in enumerate(experts):
            homes_E[expert].append((gpu, slot))
    return homes_E


def _add_line(homes: dict[int, dict[tuple[int, int], int]], names: dict[int, str], line: list[str], where: str) -> None:
    if len(line) != len(_COLUMNS):
        raise BadInput(f"{where}: {len(line)} columns, expected {len(_COLUMNS)}")
    index, expert, copies, *_ = (_number(cell, where) for cell in line[1:4])
    gpus, slots = ([_number(cell, where) for cell in cells.split()] for cells in line[4:])
    if names.get(index) != line[0]:
        raise BadInput(f"{where}: layer {line[0][:80]!r} with index {index} is not a layer of this model")
    if not copies == len(gpus) == len(slots):
        raise BadInput(f"{where}: {copies} copies, but {len(gpus)} gpus and {len(slots)} slots")
    for home in zip(gpus, slots, strict=True):
        if home in homes[index]:
            raise BadInput(f"{where}: GPU {home[0]}, slot {home[1]} already holds expert {homes[index][home]}")
        homes[index][home] = expert


def _placement(homes: dict[tuple[int, int], int], gpus: int, layer: MoELayer, where: str) -> Placement:
    where = f"{where}: layer {layer.name}"
    placement: list[list[int]] = [[] for _ in range(gpus)]
    for (gpu, slot), expert in sorted(homes.items()):
        if gpu >= gpus:
            raise BadInput(f"{where}: GPU {gpu} is not in 0..{gpus - 1}")
        if slot != len(placement[gpu]):
            raise BadInput(f"{where}: GPU {gpu} has a copy in slot {slot}, but none in slot {len(placement[gpu])}")
        placement[gpu].append(expert)
    checked = tuple(map(tuple, placement))
    check_placement(checked, gpus, layer, where)
    return checked


def _number(cell: str, where: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) < 10):
        raise BadInput(f"{where}: {cell[:40]!r} is not a whole number")
    return int(cell)


FORMAT = PlacementFormat(
    name="csv",
    server="people",
    slots="any",
    suffix=None,
    keeps_slot_order=True,
    encode=encode,
    decode=decode,
    flags=flags,
)
