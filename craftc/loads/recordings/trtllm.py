"""TensorRT-LLM's expert statistics: a folder of `meta_info.json` and `rank<r>.safetensors`, one tensor per iteration
and layer.

Source: docs/servers-tensorrt-llm.md (source read, not run).
Axes: S iterations, L layers by decoder index, E experts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, read_bytes, validate
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.recordings.folding import check_cells, check_ranks, profile_of_layers, refuse_idle_steps

_RANK_FILE = re.compile(r"rank([0-9]{1,6})\.safetensors")
_KEY = re.compile(r"([0-9]{1,9})_([0-9]{1,6})")


class _Meta(BaseModel):
    num_experts: int = Field(ge=1)
    num_experts_per_token: int = Field(ge=1)


def recognises(path: Path, head: bytes) -> bool:
    """A folder with both kinds of files."""
    return path.is_dir() and (path / "meta_info.json").is_file() and bool(_rank_files(path))


def read(path: Path) -> LoadProfile:
    """Ranks added up, one step per iteration. Every rank must hold every layer of every iteration, without gaps."""
    if not path.is_dir():
        raise BadInput(f"{path}: expected the folder with meta_info.json and rank<r>.safetensors")
    meta = validate(
        _Meta, parse_json(read_bytes(path / "meta_info.json"), f"{path}: meta_info.json"), f"{path}: meta_info.json"
    )
    files = _rank_files(path)
    check_ranks(sorted(files), str(path))
    with _open(files[0]) as tensors:
        grid = _grid(list(tensors.keys()), files[0])
    check_cells((len(grid[0]), len(grid[1]), meta.num_experts), str(path))
    counts_SLE = np.zeros((len(grid[0]), len(grid[1]), meta.num_experts), dtype=np.int64)
    for rank in sorted(files):
        with _open(files[rank]) as tensors:
            found = _grid(list(tensors.keys()), files[rank])
            if found != grid:
                raise BadInput(f"{files[rank]}: {_words(found)}, but rank 0 has {_words(grid)}")
            _add_rank(counts_SLE, tensors, grid, files[rank])
    refuse_idle_steps(counts_SLE, [f"iteration {iteration}" for iteration in grid[0]], str(path))
    return profile_of_layers(counts_SLE, grid[1], str(path), meta.num_experts_per_token)


def _add_rank(counts_SLE: np.ndarray, tensors: Any, grid: tuple[range, list[int]], file: Path) -> None:
    """Add one rank's tensors to the counts."""
    iterations, layers = grid
    for iteration, counts_LE in zip(iterations, counts_SLE, strict=True):
        rows_L = [_row(tensors, f"{iteration}_{layer}", counts_LE.shape[1:], file) for layer in layers]
        rank_LE = np.stack(rows_L)
        if rank_LE.min() < 0:
            layer = layers[int(rank_LE.min(axis=1).argmin())]
            raise BadInput(f"{file}: {iteration}_{layer}: negative count {rank_LE.min()}")
        counts_LE += rank_LE.astype(np.int64)


def _row(tensors: Any, key: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    """One tensor: whole numbers of `shape`."""
    try:
        counts_E: np.ndarray = tensors.get_tensor(key)
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{file}: {key}: cannot be read ({error})") from None
    if counts_E.shape != shape or counts_E.dtype.kind not in "iu":
        raise BadInput(f"{file}: {key}: expected {shape[0]} whole numbers, got {counts_E.dtype} {list(counts_E.shape)}")
    return counts_E


def _grid(keys: list[str], file: Path) -> tuple[range, list[int]]:
    """Iterations and layers of a file. Raises BadInput unless every layer is there in every iteration of a range
    without gaps.
    """
    pairs = set()
    for key in keys:
        match = _KEY.fullmatch(key)
        if not match:
            raise BadInput(f"{file}: key {key[:40]!r} is not <iteration>_<layer>")
        pairs.add((int(match[1]), int(match[2])))
    if not pairs:
        raise BadInput(f"{file}: no tensors in it")
    found, layers = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
    iterations = range(found[0], found[-1] + 1)
    if len(found) != len(iterations):
        gap = next(iteration for iteration, recorded in zip(iterations, found, strict=False) if iteration != recorded)
        raise BadInput(f"{file}: iteration {gap} is missing between {found[0]} and {found[-1]}: a partial recording")
    if len(pairs) != len(keys) or len(pairs) != len(found) * len(layers):
        missing = next(
            ((i, layer) for i in found for layer in layers if (i, layer) not in pairs), (found[0], layers[0])
        )
        raise BadInput(f"{file}: layer {missing[1]} of iteration {missing[0]} is missing: a partial recording")
    return iterations, layers


def _words(grid: tuple[range, list[int]]) -> str:
    return f"iterations {grid[0].start}..{grid[0].stop - 1} and {len(grid[1])} layers"


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file}: not a readable safetensors file ({error})") from None


def _rank_files(folder: Path) -> dict[int, Path]:
    """`rank<r>.safetensors` by rank; files ending `_raw.safetensors` are skipped, as the server's reader does."""
    matches = ((_RANK_FILE.fullmatch(file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in matches if match}


FORMAT = LoadFormat(
    name="trtllm",
    server="TensorRT-LLM (files of 2025-2026)",
    recognises=recognises,
    read=read,
)
