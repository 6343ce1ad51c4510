"""Numbers with a source, and the checks of their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from craftc.errors import BadInput, folded

LARGEST = 1e9
"""Larger than any number of a cluster in its unit: what is beyond it is a typing mistake."""
SMALLEST = 1e-9
"""Smaller than any number of a cluster in its unit, but for 0."""


@dataclass(frozen=True)
class Figure:
    """A number, and where it comes from."""

    value: float
    """The number; its unit is in the name of the field that holds it. Finite."""
    source: str
    """Where it comes from, one line, not empty; "assumed ..." if nobody measured it, "calibrated ..." if fitted."""

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, Real):
            raise BadInput(f"value must be a number, got {self.value!r}")
        if not abs(self.value) <= LARGEST:
            raise BadInput(f"value must be a finite number, at most {LARGEST:g}")
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "source", one_line("source", self.source))

    @property
    def origin(self) -> Literal["assumed", "calibrated", "stated"]:
        """What kind of source it is."""
        if self.source.startswith("assumed"):
            return "assumed"
        return "calibrated" if self.source.startswith("calibrated") else "stated"


@dataclass(frozen=True)
class WireCopies:
    """How often a token crosses the network, and where that comes from."""

    value: str
    """"expert": one copy for each of its experts; "node": one for each node that has any of them."""
    source: str
    """As in Figure."""

    def __post_init__(self) -> None:
        if self.value not in ("expert", "node"):
            raise BadInput(f"value must be expert or node, got {self.value!r}")
        object.__setattr__(self, "source", one_line("source", self.source))


def require_between(part: Any, names: tuple[str, ...], low: float, high: float) -> None:
    """Raise BadInput unless the fields `names` of `part` are figures from `low` to `high`."""
    for name in names:
        figure = getattr(part, name)
        if not isinstance(figure, Figure):
            raise BadInput(f"{name} must be a Figure(value, source), got {figure!r}")
        if not low <= figure.value <= high:
            bounds = f"above 0 and at most {high:g}" if low == SMALLEST else f"between {low:g} and {high:g}"
            raise BadInput(f"{name} must be {bounds}, got {figure.value:g}")


def require_count(part: Any, name: str) -> None:
    """Raise BadInput unless the field `name` of `part` is a whole number from 1 on."""
    require_between(part, (name,), 1, LARGEST)
    count = getattr(part, name).value
    if not count.is_integer():
        raise BadInput(f"{name} must be a whole number, got {count:g}")


def one_line(name: str, text: str) -> str:
    """`text` on one line. Raises BadInput if nothing is left, or something cannot be printed."""
    line = folded(text) if isinstance(text, str) else ""
    if not line or not line.isprintable():
        raise BadInput(f"{name} must be a line of printable text, got {text!r}")
    return line
