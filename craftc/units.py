"""Sizes and times as people write them: `84MiB`, `1.5GiB`, `80GB`; `10s`, `200ms`. What could be read in two ways, such
as `8G` or a time without a unit, is refused, showing both readings."""

from __future__ import annotations

import math
import re

from craftc.errors import BadInput

_BYTES_PER = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_LONGEST_SECONDS = 1e9
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes in `text` (rounded down). Raises BadInput on anything but a finite number with an explicit unit."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if not match:
        raise BadInput(f"size {text!r}: expected a number and a unit, such as 64GiB or 500MB")
    number, unit = float(match[1]), match[2]
    scale = {name.lower(): factor for name, factor in _BYTES_PER.items()}.get(unit.lower())
    if scale is None and unit.upper() in ("K", "M", "G", "T"):
        letter = unit.upper()
        decimal, binary = number * _BYTES_PER[f"{letter}B"], number * _BYTES_PER[f"{letter}iB"]
        raise BadInput(
            f"size {text!r} is ambiguous: write {match[1]}{letter}B ({decimal:,.0f} bytes) "
            f"or {match[1]}{letter}iB ({binary:,.0f} bytes)"
        )
    if scale is None:
        raise BadInput(f"size {text!r}: unit must be one of {', '.join(_BYTES_PER)}")
    if not math.isfinite(number * scale) or number * scale > 2**63:
        raise BadInput(f"size {text!r} is larger than any machine: at most 8 EiB")
    return int(number * scale)


def format_size(size_bytes: float) -> str:
    """`size_bytes` with a binary unit and at least three significant digits: `1.50 GiB`, `84.0 MiB`, `512 B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        value = size_bytes / _BYTES_PER[unit]
        if abs(value) >= 1:
            return f"{value:.{2 if abs(value) < 10 else 1}f} {unit}"
    return f"{size_bytes:.0f} B"


def parse_seconds(text: str) -> float:
    """Seconds in `text`, at least 0. Raises BadInput on anything but a finite number with an explicit unit."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if not match:
        raise BadInput(f"time {text!r}: expected a number and a unit, such as 10s or 200ms")
    number, unit = match[1], match[2]
    if not unit:
        raise BadInput(f"time {text!r} has no unit: write {number}s or {number}ms")
    if unit.lower() not in _SECONDS_PER:
        raise BadInput(f"time {text!r}: unit must be one of {', '.join(_SECONDS_PER)}")
    seconds = float(number) * _SECONDS_PER[unit.lower()]
    if seconds > _LONGEST_SECONDS:
        raise BadInput(f"time {text!r} is longer than anyone waits: at most {_LONGEST_SECONDS:g}s")
    return seconds
