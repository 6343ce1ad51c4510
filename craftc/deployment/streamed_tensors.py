"""Write a safetensors file tensor by tensor, so that memory holds only one piece of one tensor at a time.

The safetensors library can only write tensors that are all in memory at once; its reader reads these files. Format: 8
bytes with the length of the header, the header in JSON, the data without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from craftc.errors import Unsupported

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, eq=False)
class StreamedTensor:
    """A tensor that is produced in pieces when its turn to be written comes."""

    name: str
    """Name in the file."""
    dtype: torch.dtype
    """Dtype of every piece."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    pieces: Callable[[], Iterable[Tensor]]
    """The pieces in order; their elements, one after the other, are those of the tensor, row by row."""


def write_tensors(path: Path, tensors: Sequence[StreamedTensor], metadata: Mapping[str, str]) -> None:
    """Write `path`; same tensors, same bytes. Raises Unsupported for a dtype that the format does not have."""
    # Largest dtypes first, as in the library's own writer: every tensor stays aligned.
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
        header[tensor.name] = {"dtype": _dtype_name(tensor), "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for piece in tensor.pieces():
                file.write(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _dtype_name(tensor: StreamedTensor) -> str:
    if tensor.dtype not in _DTYPES:
        raise Unsupported(f"{tensor.name}: weights of {tensor.dtype} cannot be written to safetensors")
    return _DTYPES[tensor.dtype]
