"""Frozen dataclasses from and to files that people write by hand: mappings in mappings, every key known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_yaml

_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_EXACT = 2**53
"""Whole numbers below this are the same as floats, and are written without a point."""
_Part = TypeVar("_Part")


def read_part(kind: type[_Part], data: bytes, where: str) -> _Part:
    """The dataclass `kind` from YAML. Raises BadInput naming the file and the key."""
    return _part(kind, parse_yaml(data, where), where, ())


def written_part(part: Any) -> bytes:
    """YAML from which `read_part` makes an equal value; the same value gives the same bytes."""
    text = yaml.dump(part_content(part), Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


def part_content(part: Any) -> dict[str, Any]:
    """A dataclass as a mapping of texts, numbers and mappings. Fields that are None are left out."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def close_match(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing if no known name is close."""
    found = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _part(kind: type[_Part], content: Any, where: str, path: tuple[str, ...]) -> _Part:
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    spot = f"{where}: {'.'.join(path)}: " if path else f"{where}: "
    if not isinstance(content, dict):
        raise BadInput(f"{spot}expected the keys {', '.join(known)}, got {_shown(content)}")
    for key in content:
        if key not in known:
            raise BadInput(f"{spot}unknown key {_shown(key)}{close_match(str(key), known)} (keys: {', '.join(known)})")
    missing = [name for name, field in known.items() if name not in content and field.default is MISSING]
    if missing:
        raise BadInput(f"{spot}{missing[0]} is missing (keys: {', '.join(known)})")
    hints = get_type_hints(kind)
    values = {key: _value(hints[key], content[key], where, (*path, key)) for key in content}
    try:
        return kind(**values)
    except BadInput as error:
        raise BadInput(f"{spot}{error}") from None


def _value(hint: Any, content: Any, where: str, path: tuple[str, ...]) -> Any:
    spot = f"{where}: {'.'.join(path)}"
    if get_origin(hint) is UnionType:
        hint = next(kind for kind in get_args(hint) if is_dataclass(kind))
    if is_dataclass(hint) and isinstance(hint, type):
        return _part(hint, content, where, path)
    if hint is float:
        if isinstance(content, (str, int)) and _NUMBER.fullmatch(str(content)):
            return float(content)
        raise BadInput(f"{spot}: expected a number, got {_shown(content)}")
    if not isinstance(content, str):
        raise BadInput(f"{spot}: expected text, got {_shown(content)}; put text that looks like a number in quotes")
    return content


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return part_content(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _shown(content: Any) -> str:
    if isinstance(content, (list, dict)):
        return "a list" if isinstance(content, list) else "a mapping"
    text = repr(content)
    return text if len(text) <= 60 else f"{text[:60]}..."
