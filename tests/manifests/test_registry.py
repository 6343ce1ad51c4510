"""One line per format, and formats of other packages through entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType

import pytest

from craftc.errors import BadInput, Unsupported
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.manifests.format import PlacementFormat
from craftc.manifests.registry import (
    LOADS_GROUP,
    PLACEMENT_GROUP,
    load_format,
    load_names,
    placement_format,
    placement_names,
)
from tests.loads.recordings.writers import COUNTS_SLE


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package `their_formats` with a format of each kind, one that breaks on import and one that is none."""
    module = ModuleType("their_formats")
    vars(module).update(
        PLACEMENT=placement_format("csv"),
        LOADS=LoadFormat(
            name="theirs",
            server="theirs",
            recognises=lambda path, head: head == b"theirs",
            read=lambda path: LoadProfile.from_counts(COUNTS_SLE),
        ),
        NONE=7,
    )
    monkeypatch.setitem(__import__("sys").modules, "their_formats", module)
    known = EntryPoints(
        [
            EntryPoint("theirs", "their_formats:PLACEMENT", PLACEMENT_GROUP),
            EntryPoint("none", "their_formats:NONE", PLACEMENT_GROUP),
            EntryPoint("broken", "their_formats.missing:X", PLACEMENT_GROUP),
            EntryPoint("sglang", "their_formats:PLACEMENT", PLACEMENT_GROUP),
            EntryPoint("theirs", "their_formats:LOADS", LOADS_GROUP),
        ]
    )
    monkeypatch.setattr("craftc.files.plugins.entry_points", known.select)
    return module


def test_every_line_of_the_registry_is_a_format_of_that_name() -> None:
    for name in placement_names():
        assert isinstance(placement_format(name), PlacementFormat)
        assert placement_format(name).name == name
    for name in load_names():
        assert isinstance(load_format(name), LoadFormat)
        assert load_format(name).name == name


def test_other_packages_add_formats(plugins: ModuleType, tmp_path: Path) -> None:
    assert placement_names()[-1] == "theirs"
    assert placement_format("theirs") is plugins.PLACEMENT
    path = tmp_path / "recording"
    path.write_bytes(b"theirs")
    assert read_loads(path).steps == len(COUNTS_SLE)


def test_they_cannot_replace_ours_and_broken_ones_are_named(plugins: ModuleType) -> None:
    assert placement_format("sglang").name == "sglang"
    assert placement_names().count("sglang") == 1
    with pytest.raises(Unsupported, match=r"format 'broken' .* cannot be loaded: ModuleNotFoundError"):
        placement_format("broken")
    with pytest.raises(Unsupported, match="is no PlacementFormat"):
        placement_format("none")
    with pytest.raises(BadInput, match="format 'other': expected one of npz, "):
        load_format("other")
