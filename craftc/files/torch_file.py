"""Files of `torch.save`, read without running anything in them. torch is imported only when needed, so other formats
do not pay for it.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from craftc.errors import BadInput

_INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
_NUMBERS = (*_INTEGERS, "float32", "float64")


def is_torch_zip(head: bytes) -> bool:
    """Whether a file with these first bytes was written by `torch.save` (since torch 1.6)."""
    return head.startswith(b"PK\x03\x04") and b"data.pkl" in head[:512]


def pickle_head(path: Path) -> bytes:
    """The first bytes of the pickle in a torch file, which show its keys; empty if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            if name is None:
                return b""
            with archive.open(name) as file:
                return file.read(64 * 1024)
    except Exception:  # zipfile raises all kinds of errors on broken bytes; such a file has no keys to show
        return b""


def load_torch_zip(path: Path) -> Any:
    """Tensors and plain containers of a torch file. Raises BadInput on anything else, including compressed entries."""
    import torch

    _refuse_bombs(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that torch would not write
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path}: refused: {why_refused(error)}") from None
    except Exception as error:  # torch raises all kinds of errors on a broken file
        raise BadInput(f"{path}: not a readable torch file ({_first_line(error)})") from None


def integer_array(value: Any, axes: int, where: str) -> np.ndarray:
    """`value` as a NumPy view. Raises BadInput unless it is a plain integer tensor with `axes` axes."""
    return _array(value, axes, _INTEGERS, where)


def float_or_integer_array(value: Any, axes: int, where: str) -> np.ndarray:
    """Like `integer_array`, for recorders that keep counts as floats; whether they are whole is not checked."""
    return _array(value, axes, _NUMBERS, where)


def _array(value: Any, axes: int, dtypes: tuple[str, ...], where: str) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise BadInput(f"{where}: expected a tensor, got {type(value).__name__}")
    if (
        value.layout != torch.strided
        or value.device.type != "cpu"
        or str(value.dtype).removeprefix("torch.") not in dtypes
    ):
        raise BadInput(f"{where}: expected numbers of type {', '.join(dtypes)}, got {value.dtype} ({value.layout})")
    if value.ndim != axes:
        raise BadInput(f"{where}: expected {axes} axes, got shape {list(value.shape)}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise BadInput(f"{where}: shape {list(value.shape)} is larger than the values stored for it")
    return value.detach().numpy()


def why_refused(error: pickle.UnpicklingError) -> str:
    """The point of torch's long message: the foreign name in the pickle, if there is one."""
    name = re.search(r"GLOBAL (\S+)", str(error))
    return (
        f"it holds {name[1][:80]}, not only tensors and plain values"
        if name
        else "it holds something other than tensors and plain values"
    )


def _refuse_bombs(path: Path) -> None:
    """Raise BadInput for entries larger than the file: torch.save never compresses, so it did not write them."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # zipfile raises all kinds of errors on broken bytes
        raise BadInput(f"{path}: not a readable torch file ({_first_line(error)})") from None
    if packed or unpacked > path.stat().st_size:
        raise BadInput(f"{path}: not a readable torch file (its entries are compressed or overlap)")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
