"""Another package's formats, as if it were installed."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest


def install(monkeypatch: pytest.MonkeyPatch, group: str, entries: dict[str, str], **contents: object) -> None:
    """A package `their_formats` with `contents`, and its entry points `{name: attribute}` in `group`."""
    module = ModuleType("their_formats")
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, "their_formats", module)
    known = EntryPoints([EntryPoint(name, f"their_formats{value}", group) for name, value in entries.items()])
    monkeypatch.setattr("craftc.files.plugins.entry_points", known.select)
