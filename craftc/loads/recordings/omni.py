"""omni-infer's activation counts: `activation_counts_recordstep_<n>_rank_<r>.txt`, one line of E/G counts per MoE
layer.

Source: docs/servers-omni-infer.md (omni-infer at c8bc2bb). Rank r's columns are the experts from r * E/G on, so the
recording must be made under the server's default placement. Layers are MoE ordinals; every line ends with a tab.
Axes: S record steps, L MoE layers by ordinal, E experts.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from craftc.errors import BadInput
from craftc.files.outside_documents import decode_text
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.recordings.folding import check_cells, check_ranks, profile_of_layers, refuse_idle_steps

_NAME = re.compile(r"activation_counts_recordstep_([0-9]{1,12})_rank_([0-9]{1,6})\.txt")
_NUMBERS = re.compile(r"[0-9]{1,15}(?:\t[0-9]{1,15})*\t?")


def recognises(path: Path, head: bytes) -> bool:
    """A folder with at least one such file."""
    return path.is_dir() and any(_NAME.fullmatch(file.name) for file in path.iterdir())


def read(path: Path) -> LoadProfile:
    """One step per record step; the columns of all ranks are joined."""
    if not path.is_dir():
        raise BadInput(f"{path}: expected the folder with activation_counts_recordstep_<n>_rank_<r>.txt")
    files = {(int(match[1]), int(match[2])): file for file in path.iterdir() if (match := _NAME.fullmatch(file.name))}
    steps, ranks = sorted({step for step, _ in files}), sorted({rank for _, rank in files})
    check_ranks(ranks, str(path))
    if steps[-1] - steps[0] + 1 != len(steps):
        gap = next(step for step in range(steps[0], steps[-1]) if step not in set(steps))
        raise BadInput(f"{path}: record step {gap} is missing between {steps[0]} and {steps[-1]}: a partial recording")
    missing = next(((step, rank) for step in steps for rank in ranks if (step, rank) not in files), None)
    if missing:
        raise BadInput(f"{path}: record step {missing[0]} has no file of rank {missing[1]}: a partial recording")
    layers, width = _read_table(files[steps[0], 0]).shape
    check_cells((len(steps), layers, len(ranks) * width), str(path))
    counts_SLE = np.empty((len(steps), layers, len(ranks) * width), dtype=np.int64)
    for (step, rank), file in sorted(files.items()):
        counts = _read_table(file)
        if counts.shape != (layers, width):
            raise BadInput(f"{file}: {list(counts.shape)} counts, other files have {[layers, width]}")
        counts_SLE[step - steps[0], :, rank * width : (rank + 1) * width] = counts
    refuse_idle_steps(counts_SLE, [f"record step {step}" for step in steps], str(path))
    return profile_of_layers(counts_SLE, list(range(layers)), str(path))


def _read_table(file: Path) -> np.ndarray:
    """`[layers, E/G]` int64 of one file."""
    lines = [line for line in decode_text(file.read_bytes(), str(file)).split("\n") if line.strip()]
    widths = []
    for number, line in enumerate(lines, start=1):
        if not _NUMBERS.fullmatch(line.rstrip("\r")):
            raise BadInput(f"{file}: line {number} is not whole numbers separated by tabs")
        widths.append(line.rstrip().count("\t") + 1)
    if len(set(widths)) != 1:
        raise BadInput(f"{file}: {len(lines)} lines, expected at least one, all of equal length")
    return np.fromstring(" ".join(lines), sep=" ", dtype=np.int64).reshape(len(lines), widths[0])


FORMAT = LoadFormat(
    name="omni",
    server="omni-infer c8bc2bb",
    recognises=recognises,
    read=read,
)
