"""craftc's own load files: `.npz` and `.safetensors` with `counts [steps, layers, experts]`.

Besides `counts`, a file may hold `layer_names`, `layer_indices`, `top_k` (0 if unknown), `step_names`, and `experts`
(of every layer, if layers differ); other arrays are ignored. The format is detected from the content, not from the
name. Files are read without pickle, so no file can run code.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as save_safetensors

from craftc.errors import BadInput, one_line
from craftc.files.atomic_write import check_writable, write_bytes
from craftc.files.torch_file import is_torch_zip
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile

_METADATA_KEY = "craftc.loads"
"""One key holds all our metadata as JSON, because safetensors writes several keys in no fixed order."""
_TEXTS = ("layer_names", "step_names")
_NUMBERS = ("layer_indices", "top_k", "experts")
_KNOWN = ("counts", *_TEXTS, *_NUMBERS)
_LARGEST_BYTES = 2**34
"""Most bytes of `counts` that are read: 16 GiB is a hundred times the largest known recording, and stops zip bombs."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first date of the zip format, so that the same loads give the same bytes."""


def write_loads(loads: LoadProfile, path: str | Path) -> None:
    """Write a file of loads, `.npz` or `.safetensors` by its name, all or nothing; the same loads give the same bytes.

    loads: with names, indices and top-k.
    path: an existing file is replaced.

    Raises BadInput if the name has another ending, or the file cannot be written.
    """
    path = Path(path)
    check_loads_name(path)
    write_bytes(path, npz_bytes(loads) if path.suffix == ".npz" else safetensors_bytes(loads))


def check_loads_name(path: Path) -> None:
    """Raise BadInput if loads cannot be written to `path`; checked before long work, not after it."""
    if path.suffix not in (".npz", ".safetensors"):
        raise BadInput(f"cannot write loads to {path}: the name must end in .npz or .safetensors")
    check_writable(path)


def why_not_ours(start: bytes) -> str:
    """What a file with these first bytes is, if not `.npz` or `.safetensors`, and what to do."""
    if not start:
        return "is empty: expected .npz or .safetensors with an array named counts"
    if start.startswith(b"\x80"):
        return "is a pickle, which could run code when read: save it with numpy.savez(counts=...)"
    if start.startswith(b"\x93NUMPY"):
        return "is a bare .npy array: save it with numpy.savez(path, counts=array)"
    return "is neither .npz nor .safetensors: expected one with an array named counts"


def npz_bytes(loads: LoadProfile) -> bytes:
    """The `.npz` file of `loads`; the same loads give the same bytes."""
    arrays = {"counts": loads.counts_SLE, **_number_arrays(loads)}
    for name, texts in _texts_of(loads).items():
        arrays[name] = np.array(texts, dtype=np.str_)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def safetensors_bytes(loads: LoadProfile) -> bytes:
    """The `.safetensors` file of `loads`; the same loads give the same bytes."""
    metadata = {_METADATA_KEY: json.dumps(_texts_of(loads))}
    return save_safetensors({"counts": loads.counts_SLE, **_number_arrays(loads)}, metadata)


def _texts_of(loads: LoadProfile) -> dict[str, list[str]]:
    texts = {"layer_names": list(loads.layer_names), "step_names": list(loads.step_names)}
    return {name: values for name, values in texts.items() if values}


def _number_arrays(loads: LoadProfile) -> dict[str, np.ndarray]:
    arrays = {
        "layer_indices": np.array(loads.layer_indices, dtype=np.int64),
        "top_k": np.array([top_k or 0 for top_k in loads.top_k], dtype=np.int64),
    }
    if loads.layer_experts is not None:
        arrays["experts"] = np.array(loads.layer_experts, dtype=np.int64)
    return arrays


def _read(path: Path) -> LoadProfile:
    """The loads in `path`. Raises BadInput, in one line that begins with the path, for any file that holds none."""
    arrays = _read_arrays(path)
    if "counts" not in arrays:
        raise BadInput(f"{path}: no array named counts; it holds {_names(arrays)}")
    counts_SLE = arrays["counts"]
    try:
        _check_shapes(arrays)
        return LoadProfile.from_counts(
            counts_SLE,
            layer_names=tuple(str(name) for name in arrays["layer_names"]) if "layer_names" in arrays else None,
            layer_indices=tuple(int(index) for index in arrays["layer_indices"]) if "layer_indices" in arrays else None,
            top_k=_top_k(arrays, counts_SLE) if "top_k" in arrays else None,
            step_names=tuple(str(name) for name in arrays.get("step_names", ())),
            provenance=path.name,
            layer_experts=_experts(arrays["experts"]) if "experts" in arrays else None,
        )
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise BadInput(f"{path} is a folder: give a file of loads (.npz or .safetensors)")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise BadInput(f"cannot read loads from {path}: {error.strerror or error}") from None
    read = _reader(path, start)
    try:
        return read(path)
    except BadInput:
        raise
    except Exception as error:
        # Zip, deflate, npy and safetensors each raise their own errors on broken bytes; all mean one thing to the user.
        raise BadInput(f"{path}: broken or incomplete file ({one_line(error)}); write or copy it again") from None


def _names(arrays: dict[str, np.ndarray]) -> str:
    """Names of arrays for one line of text, safe for broken files."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in sorted(arrays)) or "nothing"


def _reader(path: Path, start: bytes) -> Callable[[Path], dict[str, np.ndarray]]:
    if start.startswith(b"PK"):
        return _read_npz
    if start[8:9] == b"{":
        return _read_safetensors
    raise BadInput(f"{path} {why_not_ours(start)}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if "counts" in names and names["counts"].file_size > _LARGEST_BYTES:
        raise BadInput(f"{path}: counts takes {names['counts'].file_size:,} bytes, more than {_LARGEST_BYTES:,}")
    with np.load(path, allow_pickle=False) as archive:
        return {name: _without_pickle(path, archive, name) for name in names if name in _KNOWN} | {
            name: np.empty(0) for name in names if name not in _KNOWN
        }


def _without_pickle(path: Path, archive: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise BadInput(
            f"{path}: array {name} holds Python objects (ragged lists?), which could run code when read; "
            f"save one array of integers [steps, layers, experts]"
        ) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        arrays = {name: file.get_tensor(name) if name in _KNOWN else np.empty(0) for name in names}
        texts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    return arrays | {name: np.array(texts[name], dtype=np.str_) for name in _TEXTS if texts.get(name)}


def _check_shapes(arrays: dict[str, np.ndarray]) -> None:
    for name in _TEXTS:
        if name in arrays and (arrays[name].ndim != 1 or arrays[name].dtype.kind != "U"):
            raise BadInput(f"{name} must be a list of strings, got {arrays[name].dtype} {list(arrays[name].shape)}")
    for name in _NUMBERS:
        if name in arrays and (arrays[name].ndim > 1 or arrays[name].dtype.kind not in "iu"):
            raise BadInput(f"{name} must be a list of integers, got {arrays[name].dtype} {list(arrays[name].shape)}")
    indices = arrays.get("layer_indices", np.empty(0))
    if indices.ndim != 1 or (indices < 0).any() or len(set(indices.tolist())) != len(indices):
        raise BadInput("layer_indices must be distinct numbers, at least 0, one per layer")
    names = arrays.get("layer_names", np.empty(0))
    if len(set(names.tolist())) != len(names):
        raise BadInput("layer_names must be distinct, one per layer")


def _experts(experts: np.ndarray) -> tuple[int, ...]:
    if experts.ndim != 1 or not experts.size:
        raise BadInput(f"experts must be a list with the number of experts of every layer, got {list(experts.shape)}")
    return tuple(experts.tolist())


def _top_k(arrays: dict[str, np.ndarray], counts_SLE: np.ndarray) -> tuple[int | None, ...]:
    top_k = arrays["top_k"]
    layers, experts = (*counts_SLE.shape, 0, 0)[1:3]
    values = tuple(int(value) or None for value in (np.full(layers, top_k) if top_k.ndim == 0 else top_k))
    # Lists of the wrong length are refused by LoadProfile.
    most = _experts(arrays["experts"]) if "experts" in arrays else (experts,) * len(values)
    wrong = [
        (value, own) for value, own in zip(values, most, strict=False) if value is not None and not 1 <= value <= own
    ]
    if wrong:
        raise BadInput(f"top_k must be in 1..{wrong[0][1]} (or 0 if unknown), got {wrong[0][0]}")
    return values


def _is_npz(path: Path, head: bytes) -> bool:
    """Whether it is a zip file that torch did not write."""
    return head.startswith(b"PK") and not is_torch_zip(head)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether there is a JSON header after eight bytes of length."""
    return head[8:9] == b"{" and not head.startswith(b"{")


NPZ = LoadFormat(name="npz", server="craftc, NumPy", recognises=_is_npz, read=_read)
SAFETENSORS = LoadFormat(name="safetensors", server="craftc", recognises=_is_safetensors, read=_read)
