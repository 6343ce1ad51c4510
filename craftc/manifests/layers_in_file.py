"""The layers that a server's placement file itself shows: their number, and the experts of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from craftc.errors import BadInput
from craftc.files.outside_documents import decode_text, parse_json, parse_yaml
from craftc.models.given_sizes import GivenSizes, sized
from craftc.models.moe_layer import MoELayer

_Rows = Mapping[Any, int]
"""Experts by decoder index, or by ordinal where the format counts MoE layers."""


def layers_in_file(data: bytes, format_name: str, given: GivenSizes) -> tuple[MoELayer, ...]:
    """The layers in `data`, which `format_name` reads, with experts of the sizes given; its own reader checks the rest.

    Every row counts as an MoE layer. Raises BadInput if the file alone does not say, or a layer is given no size.
    """
    read = _READERS.get(format_name)
    where = f"{format_name} placement"
    if read is None:
        raise BadInput(f"{where}: the file alone does not say which layers it is for: give --model-config config.json")
    try:
        rows = {int(index): int(experts) for index, experts in read(data, where).items()}
        names = _csv_names(data) if format_name == "csv" else {index: f"layers.{index}" for index in rows}
        layers = tuple(MoELayer(names[index], index, rows[index], 1) for index in sorted(rows))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        layers = ()
    if not layers:
        raise BadInput(f"{where}: no layers with experts in this file; is it of another format?")
    return sized(layers, given)


def _sglang(data: bytes, where: str) -> _Rows:
    rows = parse_json(data, where)["physical_to_logical_map"]
    return {index: max(row) + 1 for index, row in enumerate(rows)}


def _trtllm(data: bytes, where: str) -> _Rows:
    rows = parse_yaml(data, where)["initial_global_assignments"]
    return {index: max(row) + 1 for index, row in rows.items()}


def _vllm(data: bytes, where: str) -> _Rows:
    rows = parse_json(data, where)["initial_global_assignments"]
    return {ordinal: max(row) + 1 for ordinal, row in rows.items()}


def _vllm_list(data: bytes, where: str) -> _Rows:
    rows = parse_json(data, where)
    if isinstance(rows[0], int):
        raise BadInput(f"{where}: one list stands for every layer: give --model-config config.json")
    return {ordinal: max(row) + 1 for ordinal, row in enumerate(rows)}


def _vllm_ascend(data: bytes, where: str) -> _Rows:
    layers = parse_json(data, where)["layer_list"]
    return {
        layer["layer_id"]: 1 + max(max(device["device_expert"]) for device in layer["device_list"]) for layer in layers
    }


def _omni(data: bytes, where: str) -> _Rows:
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, layers, experts = header(buffer)[0]
    return dict.fromkeys(range(layers), experts)


def _csv(data: bytes, where: str) -> _Rows:
    rows: dict[int, int] = {}
    for line in csv.DictReader(io.StringIO(decode_text(data, where))):
        rows[int(line["index"])] = max(rows.get(int(line["index"]), 0), int(line["expert"]) + 1)
    return rows


def _csv_names(data: bytes) -> dict[int, str]:
    return {int(line["index"]): line["layer"] for line in csv.DictReader(io.StringIO(decode_text(data, "csv")))}


_READERS: Mapping[str, Callable[[bytes, str], _Rows]] = {
    "csv": _csv,
    "omni": _omni,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "vllm": _vllm,
    "vllm-ascend": _vllm_ascend,
    "vllm-list": _vllm_list,
}
