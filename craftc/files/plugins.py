"""Formats by name: craftc's own, each a module of ours, and those that other packages add through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from craftc.errors import BadInput, Unsupported

_Format = TypeVar("_Format")


def format_names(built_in: Mapping[str, str], group: str) -> tuple[str, ...]:
    """All names, those of `built_in` first and in its order, then those of the entry points in `group`."""
    return (*built_in, *sorted(set(entry_points(group=group).names) - set(built_in)))


def find_format(name: str, built_in: Mapping[str, str], group: str, kind: type[_Format]) -> _Format:
    """The format called `name`: `FORMAT` of the module that `built_in` names, or else the entry point in `group`.

    Built-in formats cannot be replaced: what `sglang` means does not depend on what else is installed. Raises BadInput
    where there is none of that name, Unsupported where an entry point cannot be loaded or is no `kind`.
    """
    if name in built_in:
        found = import_module(built_in[name]).FORMAT
    else:
        found = _load(name, built_in, group)
    if not isinstance(found, kind):
        raise Unsupported(f"format {name!r}: entry point of group {group} is no {kind.__name__}")
    return found


def _load(name: str, built_in: Mapping[str, str], group: str) -> object:
    plugin: EntryPoint | None = next(iter(entry_points(group=group, name=name)), None)
    if plugin is None:
        raise BadInput(f"format {name!r}: expected one of {', '.join(format_names(built_in, group))}")
    try:
        return plugin.load()
    except Exception as error:  # whatever a foreign package raises on import
        raise Unsupported(f"format {plugin.name!r} ({group}, {plugin.value}) cannot be loaded: {error!r}") from error
