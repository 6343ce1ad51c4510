"""Byte sizes as people write them: `84MiB`, `1.5GiB`, `80GB`. The ambiguous `8G` is refused, showing both readings."""

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
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes in `text` (rounded down). Raises BadInput on anything but a finite number with an explicit unit."""
    match = _SIZE.fullmatch(text)
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
