"""omni-infer's placement pattern: a `.npy` array of 0 and 1, `pattern_GLE[gpu, MoE ordinal, expert]`. The only server
with per-layer counts.

Source: docs/servers-omni-infer.md (c8bc2bb; shipped patterns read, the server needs an NPU and was not run). Slot order
within a GPU is lost: the server takes ascending expert ids.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np

from craftc.errors import BadInput
from craftc.manifests.format import ExportSource, PlacementFormat, Target
from craftc.manifests.slots import check_placement, uniform_slots
from craftc.solvers.problem import Placement

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def encode(source: ExportSource) -> bytes:
    """An int32 array `[G, L, E]` in C order."""
    pattern_GLE = np.zeros((source.target.gpus, len(source.plan.layers), uniform_slots(source.target)), dtype=np.int32)
    for ordinal, layer in enumerate(source.plan.layers):
        for gpu, experts in enumerate(layer.placement):
            pattern_GLE[gpu, ordinal, list(experts)] = 1
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, pattern_GLE, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode(data: bytes, target: Target) -> tuple[Placement, ...]:
    """Placements by MoE ordinal, expert ids ascending on every GPU."""
    where = "omni placement"
    pattern_GLE = _read_array(data, (target.gpus, len(target.layers), uniform_slots(target)), where)
    if pattern_GLE.dtype.kind not in "iu" or not np.isin(pattern_GLE, (0, 1)).all():
        raise BadInput(f"{where}: must hold the integers 0 and 1 only")
    placements = []
    for ordinal, layer in enumerate(target.layers):
        placement = tuple(tuple(np.flatnonzero(row_E).tolist()) for row_E in pattern_GLE[:, ordinal])
        check_placement(placement, target.gpus, layer, f"{where}: layer {ordinal}")
        placements.append(placement)
    return tuple(placements)


def flags(source: ExportSource, path: Path) -> tuple[str, ...]:
    """A model setting and one key of the placement configuration."""
    return (
        "use_omni_placement: true",
        f"pattern_path: {json.dumps(str(path))}",
        f"max_moe_layer_num: {len(source.plan.layers)}",
    )


def _read_array(data: bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The array, if its header says exactly `shape` and all bytes are there; nothing is allocated before that is
    checked."""
    buffer = io.BytesIO(data)
    try:
        with warnings.catch_warnings(action="error"):  # headers that NumPy would have to repair are not ours
            version = np.lib.format.read_magic(buffer)
            found, fortran_order, dtype = _HEADERS[version](buffer)
    except Exception as error:  # NumPy parses the header as Python source, which can fail in any way
        raise BadInput(f"{where}: not a .npy file ({type(error).__name__} in its header)") from None
    if found != shape:
        raise BadInput(f"{where}: shape {list(found)}, expected [GPUs, MoE layers, experts] = {list(shape)}")
    body = data[buffer.tell() :]
    if dtype.hasobject or len(body) != dtype.itemsize * int(np.prod(shape)):
        raise BadInput(f"{where}: {len(body)} bytes of values for {dtype} {list(shape)}")
    return np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")


FORMAT = PlacementFormat(
    name="omni",
    server="omni-infer c8bc2bb",
    slots="any",
    suffix=".npy",
    keeps_slot_order=False,
    encode=encode,
    decode=decode,
    flags=flags,
)
