"""Formats by name: built in, or from entry points of other packages."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput, Unsupported
from craftc.files.plugins import find_format, format_names
from tests.files.entry_points import install

GROUP = "craftc.tests_of_plugins"
OURS = {"minutes": "datetime:timezone", "ours": "datetime:timedelta.max"}


@pytest.fixture(autouse=True)
def _their_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"theirs": ":THEIRS", "another": ":THEIRS", "ours": ":THEIRS", "none": ":NONE", "broken": ".missing:X"}
    install(monkeypatch, GROUP, entries, THEIRS="their text", NONE=7)


def test_built_in_names_come_first_and_once():
    assert format_names(OURS, GROUP) == ("minutes", "ours", "another", "broken", "none", "theirs")


def test_other_packages_add_formats_and_cannot_replace_ours():
    assert find_format("theirs", OURS, GROUP, str) == "their text"
    assert find_format("ours", OURS, GROUP, object) != "their text"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("unknown", BadInput, "format 'unknown': expected one of minutes, ours, another, broken, none, theirs"),
        ("broken", Unsupported, r"format 'broken' \(.*, their_formats\.missing:X\) cannot be loaded"),
        ("none", Unsupported, "format 'none': entry point of group craftc.tests_of_plugins is not a str"),
    ],
)
def test_what_is_no_format_is_named(name: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        find_format(name, OURS, GROUP, str)
