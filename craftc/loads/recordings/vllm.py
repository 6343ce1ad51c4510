"""vLLM's proposed load statistics (pull request 41141): JSON lines, one `eplb_load_meta` record and one
`eplb_load_stats` per interval.

Source: docs/servers-vllm.md (the branch's source and tests were read). Layers are MoE ordinals; counts are per slot and
folded by the record's map.
Axes: S records, L MoE layers by ordinal, P physical slots, E logical experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, validate
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.recordings.folding import check_cells, fold_slots, profile_of_layers, refuse_idle_steps

_ARRAYS = ("expert_load", "p2l_map")
_MAX_LINE_BYTES = 64 * 2**20
_RECORDS_AT_ONCE = 32


class _Meta(BaseModel):
    version: Literal[1]
    num_layers: int | None = None
    num_redundant_experts: int | None = None


class _Stats(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    version: Literal[1]
    step: int = Field(ge=0)
    expert_load: Any
    p2l_map: Any


@dataclass(frozen=True, eq=False)
class _Record:
    """One statistics record."""

    line: int
    step: int
    counts_LP: np.ndarray
    expert_LP: np.ndarray
    """The array object of the previous record if the map has not changed."""


def recognises(path: Path, head: bytes) -> bool:
    """A line with one of the two record types within the first bytes."""
    return head.lstrip().startswith(b"{") and (b'"eplb_load_stats"' in head or b'"eplb_load_meta"' in head)


def read(path: Path) -> LoadProfile:
    """One step per statistics record; steps ascend."""
    steps: list[int] = []
    counts_SLE = np.empty((0, 0, 0), dtype=np.int64)
    for records in _runs(_records(path)):
        where = f"{path}: line {records[0].line}"
        block_SLE = fold_slots(np.stack([record.counts_LP for record in records]), records[0].expert_LP, where)
        shape = block_SLE.shape[1:]
        if steps and shape != counts_SLE.shape[1:]:
            raise BadInput(f"{where}: {list(shape)} [layers, experts], earlier lines {list(counts_SLE.shape[1:])}")
        stop = len(steps) + len(records)
        check_cells((stop, *shape), str(path))
        if stop > len(counts_SLE):  # in place: memory that grows is moved, not copied
            counts_SLE.resize((2 * stop, *shape), refcheck=False)
        counts_SLE[len(steps) : stop] = block_SLE
        steps.extend(record.step for record in records)
    if not steps:
        raise BadInput(f"{path}: no eplb_load_stats record in it")
    counts_SLE.resize((len(steps), *counts_SLE.shape[1:]), refcheck=False)
    refuse_idle_steps(counts_SLE, [f"step {step}" for step in steps], str(path))
    return profile_of_layers(counts_SLE, list(range(counts_SLE.shape[1])), str(path))


def _runs(records: Iterator[_Record]) -> Iterator[list[_Record]]:
    """Consecutive records with the same slot map, in batches: folding them together is much faster than one by one."""
    run: list[_Record] = []
    for record in records:
        if run and (record.expert_LP is not run[0].expert_LP or len(run) == _RECORDS_AT_ONCE):
            yield run
            run = []
        run.append(record)
    if run:
        yield run


def _records(path: Path) -> Iterator[_Record]:
    """The statistics records, checked against the meta record before them and with steps that ascend."""
    meta: _Meta | None = None
    last_step = -1
    expert_LP = np.empty(0)
    with path.open("rb") as file:
        for number, line in _lines(file, path):
            where = f"{path}: line {number}"
            record = _parse(line, where)
            if not isinstance(record, dict) or record.get("record_type") not in ("eplb_load_meta", "eplb_load_stats"):
                raise BadInput(f"{where}: neither an eplb_load_meta nor an eplb_load_stats record")
            if record["record_type"] == "eplb_load_meta":
                meta = validate(_Meta, record, where)
                continue
            stats = validate(_Stats, record, where)
            if stats.step <= last_step:
                raise BadInput(f"{where}: step {stats.step} follows step {last_step}: two recordings in one file")
            last_step = stats.step
            counts_LP = _matrix(stats.expert_load, f"{where}: expert_load")
            found_LP = _matrix(stats.p2l_map, f"{where}: p2l_map")
            _check_meta(meta, found_LP, where)
            if counts_LP.shape != found_LP.shape:
                raise BadInput(
                    f"{where}: counts are {list(counts_LP.shape)} [layers, slots], the map {list(found_LP.shape)}"
                )
            expert_LP = expert_LP if np.array_equal(expert_LP, found_LP) else found_LP
            yield _Record(number, stats.step, counts_LP, expert_LP)


def _check_meta(meta: _Meta | None, expert_LP: np.ndarray, where: str) -> None:
    if meta and meta.num_layers is not None and meta.num_layers != len(expert_LP):
        raise BadInput(f"{where}: {len(expert_LP)} layers, but the meta record says {meta.num_layers}")
    redundant = expert_LP.shape[1] - int(expert_LP.max()) - 1
    if meta and meta.num_redundant_experts is not None and meta.num_redundant_experts != redundant:
        raise BadInput(f"{where}: {redundant} redundant experts, but the meta record says {meta.num_redundant_experts}")


def _lines(file: Any, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) >= _MAX_LINE_BYTES:
            raise BadInput(f"{path}: line {number} is longer than {_MAX_LINE_BYTES} bytes")
        if line.strip():
            yield number, line


def _parse(line: bytes, where: str) -> Any:
    """The record; its two large arrays go straight into NumPy if they are formatted as the server writes them (3 times
    as fast).
    """
    arrays: dict[str, np.ndarray] = {}
    for name in _ARRAYS:
        start = line.find(b'"%s": [[' % name.encode())
        stop = line.find(b"]]", start)
        if start < 0 or stop < 0:
            return parse_json(line, where)
        value = start + len(name) + 4
        matrix = _quick_matrix(line[value : stop + 2])
        if matrix is None:
            return parse_json(line, where)
        arrays[name] = matrix
        line = line[:value] + json.dumps(name).encode() + line[stop + 2 :]
    record = parse_json(line, where)
    return {**record, **arrays} if isinstance(record, dict) else record


@lru_cache(maxsize=4)  # the slot map is usually that of the previous line
def _quick_matrix(text: bytes) -> np.ndarray | None:
    """`[[1, 2], [3, 4]]` as an array; None for anything that is not a full matrix of plain numbers below 2^53."""
    rows = text[2:-2].split(b"], [")
    numbers = b",".join(rows)
    width = rows[0].count(b",") + 1
    if numbers.translate(None, b"0123456789, ") or any(row.count(b",") + 1 != width for row in rows):
        return None
    try:
        flat = np.fromstring(numbers, sep=",", dtype=np.int64)
    except ValueError:
        return None
    full = flat.size == len(rows) * width and flat.max() < 2**53
    return flat.reshape(len(rows), width) if full else None


def _matrix(value: Any, where: str) -> np.ndarray:
    """`value` as an int64 matrix of counts or ids. Raises BadInput."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(row, list) for row in value):
        raise BadInput(f"{where}: expected a list of lists")
    if len({len(row) for row in value}) > 1 or not value[0]:
        raise BadInput(f"{where}: rows of unequal length, or empty")
    if not all(type(cell) is int and 0 <= cell < 2**53 for row in value for cell in row):
        raise BadInput(f"{where}: expected whole numbers of at least 0")
    return np.array(value, dtype=np.int64)


FORMAT = LoadFormat(
    name="vllm",
    server="vLLM with pull request 41141 (open)",
    recognises=recognises,
    read=read,
)
