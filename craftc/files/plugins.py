"""Formats by name: craftc's own, and those that other packages add through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from craftc.errors import BadInput, Unsupported

_Format = TypeVar("_Format")


def format_names(built_in: Mapping[str, str], group: str) -> tuple[str, ...]:
    """All names: those of `built_in` first and in its order, then those of the entry points in `group`."""
    return (*built_in, *sorted(set(entry_points(group=group).names) - set(built_in)))


def find_format(name: str, built_in: Mapping[str, str], group: str, kind: type[_Format]) -> _Format:
    """The format called `name`.

    built_in: `module:attribute` by name, as in entry points. group: the group of entry points; they cannot replace
    built-in formats, so what `sglang` means does not depend on what else is installed. Raises BadInput if there is none
    of that name, Unsupported if an entry point cannot be loaded or is not a `kind`.
    """
    if name in built_in:
        entry = EntryPoint(name, built_in[name], group)
    elif plugins := entry_points(group=group, name=name):
        entry = next(iter(plugins))
    else:
        raise BadInput(f"format {name!r}: expected one of {', '.join(format_names(built_in, group))}")
    try:
        found = entry.load()
    except Exception as error:  # whatever a foreign package raises on import
        raise Unsupported(f"format {name!r} ({group}, {entry.value}) cannot be loaded: {error!r}") from error
    if not isinstance(found, kind):
        raise Unsupported(f"format {name!r}: entry point of group {group} is not a {kind.__name__}")
    return found
