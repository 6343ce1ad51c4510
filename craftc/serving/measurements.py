"""Measurements of a running server, as a table (CSV) with a line for every run.

Columns, in any order: `arm` or `plan` (a planner's name, or the file of a plan), `replicas_per_gpu`, `request_rate`,
`throughput`, `ttft_ms`, `itl_ms`, `kv_tokens`. Cells may be empty, and columns without which a row still says something
may be missing.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craftc.errors import BadInput, folded
from craftc.files.outside_documents import decode_text, read_bytes
from craftc.serving.cluster_file import close_match

QUANTITIES = ("throughput", "ttft_ms", "itl_ms", "kv_tokens")
"""What is measured, as the columns are called."""
FEWEST_ROWS = 3
"""Rows with throughput or time to the first token without which nothing can be said of a server."""
_NAMES = ("arm", "plan")
_NUMBERS = ("replicas_per_gpu", "request_rate", *QUANTITIES)
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_LARGEST = 1e15
"""Larger than anything that is measured in any of the units."""
_REPEATED = 1.2
"""Factor between two measurements of the same thing beyond which one of them must be wrong."""
_CHANCE = 1.05
"""Factor by which a run may finish more requests per second than are sent, by chance and rounding."""


@dataclass(frozen=True)
class Measurement:
    """One run of a server."""

    file: str
    """File that it comes from, for messages."""
    line: int
    """Its line there, at least 1."""
    arm: str
    """Name of the planner, or file of the plan."""
    replicas_per_gpu: float
    """Replicas over all layers / GPUs, at least 0."""
    request_rate: float | None = None
    """Requests sent per second, above 0; None if some were always waiting."""
    throughput: float | None = None
    """Requests finished per second, above 0."""
    ttft_ms: float | None = None
    """Mean time to the first token in milliseconds, above 0."""
    itl_ms: float | None = None
    """Mean time between tokens of a request in milliseconds, above 0."""
    kv_tokens: float | None = None
    """Tokens that the KV cache of one data-parallel rank holds in all, above 0: vLLM and SGLang print it at start."""

    def __post_init__(self) -> None:
        if not self.arm or not self.arm.isprintable():
            raise BadInput(
                f"{self.where}: arm or plan must be the name of a planner or the file of a plan, got {self.arm!r}"
            )
        for name in _NUMBERS:
            value = getattr(self, name)
            least = 0.0 if name == "replicas_per_gpu" else math.nextafter(0, 1)
            if (value is not None or least == 0) and not _is_number(value, least):
                wanted = "of at least 0" if least == 0 else "above 0"
                raise BadInput(f"{self.where}: {name} must be a number {wanted} and up to {_LARGEST:g}, got {value!r}")
        if self.arm == "none" and self.replicas_per_gpu:
            raise BadInput(f"{self.where}: arm none has no replicas, but replicas_per_gpu is {self.replicas_per_gpu:g}")
        if all(getattr(self, name) is None for name in QUANTITIES):
            raise BadInput(f"{self.where}: nothing is measured: give one of {', '.join(QUANTITIES)}, or drop the line")
        if self.throughput and self.request_rate and self.throughput > _CHANCE * self.request_rate:
            raise BadInput(
                f"{self.where}: throughput {self.throughput:g} is above the request_rate {self.request_rate:g}: no "
                f"server finishes more requests than it gets; both are requests per second"
            )

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}: line {self.line}"

    @property
    def saturated(self) -> bool:
        """Whether requests were always waiting, because it got as many as it could take, or did not keep up."""
        if self.request_rate is None:
            return True
        return self.throughput is not None and self.throughput * _CHANCE < self.request_rate


def read_measurements(path: str | Path) -> tuple[Measurement, ...]:
    """The rows of a file, in its order.

    Raises BadInput, naming file and line, for unknown or repeated columns, for anything but numbers in range, and as
    `require_sound`.
    """
    where = str(path)
    text = decode_text(read_bytes(Path(path)), where).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise BadInput(f"{where}: line {reader.line_num}: not a table with commas ({folded(str(error))})") from None
    if not rows:
        raise BadInput(f"{where}: empty: give a line of columns ({_known()}) and a line for every run of the server")
    (line, header), *lines = rows
    columns = _columns(header, f"{where}: line {line}")
    measurements = tuple(_measurement(where, number, cells, columns) for number, cells in lines)
    require_sound(measurements, where)
    return measurements


def require_sound(measurements: Sequence[Measurement], where: str = "measurements") -> None:
    """Raise BadInput if there are too few rows, or if two that should be alike are not, naming the lines."""
    telling = sum(row.throughput is not None or row.ttft_ms is not None for row in measurements)
    if telling < FEWEST_ROWS:
        raise BadInput(
            f"{where}: {telling} {'row has' if telling == 1 else 'rows have'} throughput or ttft_ms, calibration needs "
            f"at least {FEWEST_ROWS}: run the server with other plans, or at other request rates"
        )
    for name in QUANTITIES:
        _require_alike(name, [row for row in measurements if getattr(row, name) is not None])


def _require_alike(name: str, rows: Sequence[Measurement]) -> None:
    """Raise BadInput if `name`, which is measured in all `rows`, differs where it should not."""
    alike: dict[tuple[object, ...], list[Measurement]] = {}
    for row in rows:
        rate = None if name == "kv_tokens" else row.request_rate
        alike.setdefault((row.arm, row.replicas_per_gpu, rate), []).append(row)
    same = "arm and replicas" if name == "kv_tokens" else "arm, replicas and request rate"
    for together in alike.values():
        low, high = (extreme(together, key=lambda row: getattr(row, name)) for extreme in (min, max))
        if getattr(high, name) <= _REPEATED * getattr(low, name):
            continue
        first, second = sorted((low, high), key=lambda row: row.line)
        raise BadInput(
            f"{first.file}: lines {first.line} and {second.line} contradict each other: {name} "
            f"{getattr(first, name):g} and {getattr(second, name):g} for the same {same}, more than "
            f"{_REPEATED - 1:.0%} apart; drop the wrong one"
        )


def _columns(header: list[str], where: str) -> list[str]:
    """Names of the columns."""
    columns = [cell.lower() for cell in header]
    for given, name in zip(header, columns, strict=True):
        if name not in (*_NAMES, *_NUMBERS):
            raise BadInput(
                f"{where}: unknown column {given!r}{close_match(name, (*_NAMES, *_NUMBERS))} (columns, with commas "
                f"between them: {_known()})"
            )
        if columns.count(name) > 1:
            raise BadInput(f"{where}: column {name} is given {columns.count(name)} times")
    if sum(name in columns for name in _NAMES) != 1:
        raise BadInput(f"{where}: one column must be arm or plan, got {', '.join(columns)}")
    if not {"throughput", "ttft_ms"} & set(columns):
        raise BadInput(f"{where}: no column throughput or ttft_ms, got {', '.join(columns)}")
    return columns


def _measurement(file: str, line: int, cells: list[str], columns: list[str]) -> Measurement:
    where = f"{file}: line {line}"
    if len(cells) != len(columns):
        raise BadInput(f"{where}: {len(cells)} cells under {len(columns)} columns")
    given = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    arm = given.get("arm", given.get("plan", ""))
    numbers = {name: _number(cell, name, where) for name, cell in given.items() if name in _NUMBERS}
    replicas = numbers.pop("replicas_per_gpu", 0.0 if arm == "none" else None)
    if arm and replicas is None:
        raise BadInput(f"{where}: replicas_per_gpu is empty; only arm none does not need it")
    return Measurement(file, line, arm, 0.0 if replicas is None else replicas, **numbers)


def _number(cell: str, name: str, where: str) -> float:
    if not _NUMBER.fullmatch(cell):
        shown = repr(cell) if len(cell) <= 40 else f"{cell[:40]!r}..."
        raise BadInput(f"{where}: {name}: expected a number such as 12.5, got {shown}")
    return float(cell)


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= _LARGEST


def _known() -> str:
    return f"arm or plan, {', '.join(_NUMBERS)}"
