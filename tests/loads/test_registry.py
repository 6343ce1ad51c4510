"""One line per format of loads, and formats of other packages through entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.loads.registry import LOADS_GROUP, load_format, load_names
from tests.files.entry_points import install
from tests.loads.recordings.writers import COUNTS_SLE


def test_every_line_of_the_registry_is_a_format_of_that_name():
    for name in load_names():
        assert isinstance(load_format(name), LoadFormat)
        assert load_format(name).name == name


def test_other_packages_add_formats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    theirs = LoadFormat(
        name="theirs",
        server="theirs",
        recognises=lambda path, head: head == b"theirs",
        read=lambda path: LoadProfile.from_counts(COUNTS_SLE),
    )
    install(monkeypatch, LOADS_GROUP, {"theirs": ":LOADS"}, LOADS=theirs)
    path = tmp_path / "recording"
    path.write_bytes(b"theirs")
    assert read_loads(path).steps == len(COUNTS_SLE)


def test_an_unknown_one_is_refused():
    with pytest.raises(BadInput, match="format 'other': expected one of npz, "):
        load_format("other")
