"""Parsing documents from outside: plain values only, no repeated keys, no nesting deeper than a placement file
needs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from craftc.errors import BadInput, folded

MAX_TEXT_BYTES = 64 * 2**20
"""Largest placement document read; a plan for 1,000 layers of 1,000 slots is 5 MB."""
MAX_FILE_BYTES = 2**31
"""Largest file read at once: an ONNX model cannot be larger."""
_MAX_DEPTH = 4
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_PLAIN_WORDS = {
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "missing": "is missing",
}
"""Pydantic's kinds of errors in the words of somebody who wrote a file by hand."""
_Document = TypeVar("_Document", bound=BaseModel)


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises BadInput if it cannot be read or is too large."""
    require_file_or_folder(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size} bytes, more than craftc reads ({MAX_FILE_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def require_file_or_folder(path: Path) -> None:
    """Raise BadInput for pipes and devices: they have no size, and some have no end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"{path}: a pipe or a device; give a file")


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 text. Raises BadInput."""
    if len(data) > MAX_TEXT_BYTES:
        raise BadInput(f"{where}: {len(data)} bytes, more than craftc reads ({MAX_TEXT_BYTES})")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not a text file (byte {error.start} is not UTF-8)") from None


def parse_json(data: bytes, where: str) -> Any:
    """JSON without repeated keys, NaN or Infinity. Raises BadInput."""
    return _parsed_json(data, where, _refuse_constant)


def _parsed_json(data: bytes, where: str, constant: Callable[[str], Any]) -> Any:
    try:
        return json.loads(decode_text(data, where), object_pairs_hook=_unique_keys, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    except ValueError as error:  # a repeated key, a constant, or an integer with more digits than Python converts
        raise BadInput(f"{where}: {str(error).splitlines()[0]}") from None


def parse_settings(data: bytes, where: str) -> Any:
    """JSON as other programs write their settings: like `parse_json`, but NaN and Infinity are floats.

    Whoever needs a field checks its value. Raises BadInput.
    """
    return _parsed_json(data, where, float)


def validate(document: type[_Document], value: Any, where: str) -> _Document:
    """`value` as a strict pydantic model. Raises BadInput naming the first wrong field."""
    with _first_mistake(where):
        return document.model_validate(value, strict=True)


def validate_json(document: type[_Document], data: bytes, where: str) -> _Document:
    """JSON text as a strict pydantic model, which may hold tuples. Raises BadInput like `validate`."""
    with _first_mistake(where):
        return document.model_validate_json(data, strict=True)


def parse_yaml(data: bytes, where: str) -> Any:
    """A YAML document of maps, lists and integers. Anchors, aliases, tags and anything else raise BadInput."""
    text = decode_text(data, where)
    try:
        events = iter(yaml.parse(text, Loader=yaml.CSafeLoader))
        next(events)  # start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            raise BadInput(f"{where}: empty")
        value = _yaml_value(next(events), events, 0, where)
        next(events)  # end of the document
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise BadInput(f"{where}: more than one document")
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not YAML ({folded(str(error))})") from None
    return value


def _yaml_value(event: Any, events: Any, depth: int, where: str) -> Any:
    line = event.start_mark.line + 1
    if getattr(event, "anchor", None) or getattr(event, "tag", None):
        raise BadInput(f"{where}: line {line}: anchors, aliases and tags are not read")
    if depth > _MAX_DEPTH:
        raise BadInput(f"{where}: line {line}: nested too deeply")
    if isinstance(event, yaml.ScalarEvent):
        if not event.implicit[0]:
            return event.value
        return int(event.value) if _INTEGER.fullmatch(event.value) else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(_yaml_value(inner, events, depth + 1, where))
        return items
    pairs: dict[Any, Any] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        key = _yaml_value(inner, events, depth + 1, where)
        if isinstance(key, (list, dict)) or key in pairs:
            raise BadInput(f"{where}: line {inner.start_mark.line + 1}: repeated or unreadable key")
        pairs[key] = _yaml_value(next(events), events, depth + 1, where)
    return pairs


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        (key, copies), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!r} is given {copies} times")
    return unique


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


@contextmanager
def _first_mistake(where: str) -> Iterator[None]:
    """Turn pydantic's report into one line."""
    try:
        yield
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        field = ".".join(str(part) for part in mistakes[0]["loc"]) or "document"
        message = _PLAIN_WORDS.get(mistakes[0]["type"], mistakes[0]["msg"])
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise BadInput(folded(f"{where}: {field}: {message}{more}")) from None
