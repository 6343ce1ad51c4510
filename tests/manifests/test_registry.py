"""One line per placement format, and formats of other packages through entry points."""

from __future__ import annotations

import pytest

from craftc.errors import Unsupported
from craftc.manifests.format import PlacementFormat
from craftc.manifests.registry import PLACEMENT_GROUP, placement_format, placement_names
from tests.files.entry_points import install


def test_every_line_of_the_registry_is_a_format_of_that_name():
    for name in placement_names():
        assert isinstance(placement_format(name), PlacementFormat)
        assert placement_format(name).name == name


def test_other_packages_add_formats_and_cannot_replace_ours(monkeypatch: pytest.MonkeyPatch):
    csv = placement_format("csv")
    entries = {"theirs": ":FORMAT", "sglang": ":FORMAT", "none": ":NONE"}
    install(monkeypatch, PLACEMENT_GROUP, entries, FORMAT=csv, NONE=7)
    assert placement_names()[-1] == "theirs"
    assert placement_format("theirs") is csv
    assert placement_format("sglang").name == "sglang"
    with pytest.raises(Unsupported, match="is not a PlacementFormat"):
        placement_format("none")
