"""Documents of other people: read as they are, or refused in one line that says where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from craftc.errors import BadInput
from craftc.files.outside_documents import decode_text, parse_json, parse_yaml, validate, validate_json


class _Point(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int
    path: tuple[int, ...] = ()


def test_json_tuples_are_read_from_bytes_only():
    assert validate_json(_Point, b'{"x": 1, "path": [2, 3]}', "f").path == (2, 3)
    with pytest.raises(BadInput, match=r"^f: path: Input should be a valid tuple$"):
        validate(_Point, {"x": 1, "path": [2, 3]}, "f")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"y": 1, "x": 1}, "f: y: unknown key"),
        ({}, "f: x: is missing"),
        ({"x": "1", "y": 1}, r"f: x: Input should be a valid integer \(and 1 more\)"),
        ([], "f: document: Input should be a valid dictionary"),
    ],
)
def test_the_first_mistake_is_named(value: object, message: str):
    with pytest.raises(BadInput, match=f"^{message}"):
        validate(_Point, value, "f")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"f: not JSON \(.* at line 1, column 2\)"),
        (b'{"a": 1, "b": 2, "a": 3}', "f: key 'a' is given 2 times"),
        (b"[NaN]", "f: NaN is not a number"),
        (b"[" * 100_000, "f: nested too deeply"),
        (b"\xff", r"f: not a text file \(byte 0 is not UTF-8\)"),
    ],
)
def test_what_json_must_not_hold(data: bytes, message: str):
    with pytest.raises(BadInput, match=f"^{message}$"):
        parse_json(data, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("a: &x 1", "anchors"), ("a: 1\n---\nb: 2", "more than one document"), ("a: 1\na: 2", "repeated")],
)
def test_what_yaml_must_not_hold(text: str, message: str):
    with pytest.raises(BadInput, match=f"^f: .*{message}"):
        parse_yaml(text.encode(), "f")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_one_line(data: bytes):
    for read in (decode_text, parse_json, parse_yaml):
        message = ""
        try:
            read(data, "f")
        except BadInput as error:
            message = str(error)
        assert len(message.splitlines()) <= 1
