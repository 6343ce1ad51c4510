"""Errors of other people's code, folded into one line of ours."""

from __future__ import annotations

import pytest

from craftc.errors import folded, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  two\n   lines "), "ValueError: two lines"),
        (KeyError("name"), "KeyError: 'name'"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("x" * 300), f"RuntimeError: {'x' * 226}..."),
    ],
)
def test_class_and_message_on_one_line(error: Exception, line: str):
    assert one_line(error) == line


def test_texts_of_ours_are_folded_but_never_cut():
    assert folded("a\n b\t c " + "x" * 300) == "a b c " + "x" * 300
