"""SGLang's expert distribution recorder: `stat`, `stat_approx`, `per_pass` and `per_token` dumps, from one or many
ranks.

Source: docs/servers-sglang.md (0.5.23). Files are named after their rank's own clock, so ranks are identified by their
number. Axes: S forward passes, L decoder layers (dense ones are all zero), P physical slots, E logical experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from craftc.errors import BadInput
from craftc.files.torch_file import integer_array, is_torch_zip, load_torch_zip, pickle_head
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.recordings.folding import check_cells, check_ranks, fold_slots, profile_of_layers, without_idle_steps

_NAME = re.compile(r"expert_distribution_recorder_[0-9.]+?(?:_(?P<rank>[0-9]+))?\.pt")
_PASSES_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class _Rank:
    """One rank's detailed recording."""

    path: Path
    rank: int
    records: list[dict[str, Any]]
    """In the order of `passes`."""
    passes: tuple[int, ...]
    """Forward pass of every record, ascending."""
    expert_LP: np.ndarray
    """Expert in every slot at the end of the recording."""


def recognises(path: Path, head: bytes) -> bool:
    """A folder of recorder files, or one torch file with the recorder's keys."""
    if path.is_dir():
        return bool(_recorder_files(path))
    if not is_torch_zip(head):
        return False
    keys = pickle_head(path)
    return b"logical_count" in keys or b"last_physical_to_logical_map" in keys or b"global_physical_count" in keys


def read(path: Path) -> LoadProfile:
    """The recording; one step per forward pass (or buffered step) in which any token was routed."""
    files = _recorder_files(path) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: no expert_distribution_recorder_*.pt in this folder")
    dump = _load(files[0])
    if "logical_count" in dump:
        return _read_stat(dump, files, path)
    if not path.is_dir():
        _refuse_lone_rank(path)
    ranks = []
    for file in files:  # one at a time: a rank's file can be hundreds of megabytes
        ranks.append(_read_rank(file))
    return _read_detail(ranks, str(path))


def _read_stat(dump: dict[str, Any], files: list[Path], path: Path) -> LoadProfile:
    if len(files) > 1:
        raise BadInput(f"{path}: {len(files)} dumps in this folder; give one of them ({files[0].name})")
    counts = dump["logical_count"]
    counts_SLE = integer_array(counts, counts.ndim if getattr(counts, "ndim", 0) == 2 else 3, f"{path}: logical_count")
    counts_SLE = counts_SLE[None] if counts_SLE.ndim == 2 else counts_SLE
    check_cells(counts_SLE.shape, f"{path}: logical_count")
    _refuse_negative(counts_SLE, f"{path}: logical_count")
    counts_SLE = without_idle_steps(counts_SLE, "buffered steps", str(path))
    return profile_of_layers(counts_SLE, list(range(counts_SLE.shape[1])), str(path))


def _read_detail(ranks: list[_Rank], where: str) -> LoadProfile:
    """Ranks added up, folded to logical experts by the recorded map."""
    check_ranks([rank.rank for rank in ranks], where)
    ranks = sorted(ranks, key=lambda rank: rank.rank)
    first = ranks[0]
    for rank in ranks[1:]:
        if rank.expert_LP.shape != first.expert_LP.shape or (rank.expert_LP != first.expert_LP).any():
            raise BadInput(
                f"{where}: ranks 0 and {rank.rank} were recorded under different expert maps: two recordings"
            )
        if rank.passes != first.passes:
            odd = sorted(set(rank.passes) ^ set(first.passes))[0]
            raise BadInput(f"{where}: forward pass {odd} is in the file of only one of the ranks 0 and {rank.rank}")
    layers, _ = first.expert_LP.shape
    experts = int(first.expert_LP.max()) + 1
    steps = list(dict.fromkeys(first.passes))
    check_cells((len(steps), layers, experts), where)
    counts_SLE = np.zeros((len(steps), layers, experts), dtype=np.int64)
    step_of_pass = {forward_pass: step for step, forward_pass in enumerate(steps)}
    for rank in ranks:
        for start, block_SLP in _blocks(rank, where):
            block_SLE = fold_slots(block_SLP, rank.expert_LP, where)
            for forward_pass, counts_LE in zip(rank.passes[start:], block_SLE, strict=False):
                counts_SLE[step_of_pass[forward_pass]] += counts_LE
    counts_SLE = without_idle_steps(counts_SLE, "forward passes", where)
    return profile_of_layers(counts_SLE, list(range(layers)), where)


def _blocks(rank: _Rank, where: str) -> Iterator[tuple[int, np.ndarray]]:
    """The counts of a few records at a time, with the number of the first; the whole recording is never held twice."""
    for start in range(0, len(rank.records), _PASSES_AT_ONCE):
        block = []
        for record, forward_pass in zip(
            rank.records[start : start + _PASSES_AT_ONCE], rank.passes[start : start + _PASSES_AT_ONCE], strict=True
        ):
            record_where = f"{where}: rank {rank.rank}, forward pass {forward_pass}"
            counts_LP = integer_array(record.get("global_physical_count"), 2, f"{record_where}: global_physical_count")
            if counts_LP.shape != rank.expert_LP.shape:
                raise BadInput(f"{record_where}: counts {list(counts_LP.shape)}, the map {list(rank.expert_LP.shape)}")
            block.append(counts_LP)
        block_SLP = np.stack(block)
        _refuse_negative(block_SLP, f"{where}: rank {rank.rank}")
        yield start, block_SLP


def _read_rank(file: Path) -> _Rank:
    dump = _load(file)
    records = dump.get("records")
    if "logical_count" in dump or not isinstance(records, list) or not records:
        raise BadInput(
            f"{file}: expected a per_pass or per_token dump with records, got keys {sorted(map(str, dump))[:5]}"
        )
    keyed: dict[tuple[int, str], dict[str, Any]] = {}
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("forward_pass_id"), int):
            raise BadInput(f"{file}: a record has no forward_pass_id")
        key = (record["forward_pass_id"], str(record.get("gatherer_key")))
        if key in keyed:
            raise BadInput(f"{file}: forward pass {key[0]} is recorded twice")
        keyed[key] = record
    ranks = {record.get("rank") for record in records if isinstance(record.get("rank"), int)}
    if len(ranks) != 1:
        raise BadInput(f"{file}: records of {len(ranks)} ranks, expected one rank")
    expert_LP = integer_array(dump.get("last_physical_to_logical_map"), 2, f"{file}: last_physical_to_logical_map")
    check_cells(expert_LP.shape, f"{file}: last_physical_to_logical_map")
    keys = sorted(keyed)
    return _Rank(file, ranks.pop(), [keyed[key] for key in keys], tuple(key[0] for key in keys), expert_LP)


def _load(file: Path) -> dict[str, Any]:
    dump = load_torch_zip(file)
    if not isinstance(dump, dict):
        raise BadInput(f"{file}: expected a dump of the recorder, got {type(dump).__name__}")
    return dump


def _refuse_lone_rank(path: Path) -> None:
    """Refuse the file of one rank next to those of others: it is part of a recording, but would look like all of it."""
    name = _NAME.fullmatch(path.name)
    if not name or name["rank"] is None:
        return
    ranks = {match["rank"] for file in path.parent.iterdir() if (match := _NAME.fullmatch(file.name)) and match["rank"]}
    if len(ranks) > 1:
        raise BadInput(f"{path}: rank {name['rank']} of {len(ranks)} ranks recorded; give the folder {path.parent}")


def _recorder_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))


def _refuse_negative(counts: np.ndarray, where: str) -> None:
    if counts.min(initial=0) < 0:
        raise BadInput(f"{where}: negative counts, the smallest is {counts.min()}")


FORMAT = LoadFormat(
    name="sglang",
    server="SGLang 0.5.23",
    recognises=recognises,
    read=read,
)
