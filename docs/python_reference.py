"""The reference part of docs/python-api.md, made from docstrings: `python docs/python_reference.py` renews it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import craftc

PAGE = Path(__file__).parent / "python-api.md"
_MARK = "## Reference\n"
_HEAD = """Made from the docstrings by `python docs/python_reference.py`; a test keeps it current.
"""
_KINDS = ("Functions", "Values", "Parts of values", "Errors")


def page_with_reference(page: str) -> str:
    """`page` with its reference part, from the last `## Reference` on, made again."""
    hand_written, _, _ = page.partition(_MARK)
    return f"{hand_written}{_MARK}\n{_HEAD}\n{reference()}"


def reference() -> str:
    """All public names as Markdown: functions, dataclasses, the dataclasses in their fields, errors."""
    public = [getattr(craftc, name) for name in craftc.__all__ if not name.startswith("_")]
    functions = [one for one in public if inspect.isfunction(one)]
    values = [one for one in public if isinstance(one, type) and is_dataclass(one)]
    errors = [one for one in public if isinstance(one, type) and issubclass(one, Exception)]
    parts = [part for part in _parts(values) if part not in values]
    sections: tuple[list[str], ...] = (
        [_function(function) for function in functions],
        [_value(value) for value in values],
        [_value(part) for part in parts],
        [_error(error) for error in sorted(errors, key=lambda error: len(error.__mro__))],
    )
    return "\n".join(f"### {kind}\n\n" + "\n".join(texts) for kind, texts in zip(_KINDS, sections, strict=True))


def _parts(values: list[Any]) -> list[Any]:
    """Dataclasses of craftc's that fields of `values` name, and so on, in the order in which they are met."""
    met = list(values)
    for value in met:  # which grows
        names = re.findall(r"\w+", " ".join(str(field.type) for field in fields(value)))
        found = (vars(sys.modules[value.__module__]).get(name) for name in names)
        parts = [part for part in found if isinstance(part, type) and is_dataclass(part)]
        met.extend(part for part in dict.fromkeys(parts) if part not in met)
    return met


def _function(function: Any) -> str:
    signature = inspect.signature(function)
    arguments = ",\n".join(f"    {argument}" for argument in _arguments(signature, function.__module__))
    call = f"{function.__name__}(\n{arguments},\n) -> {signature.return_annotation}"
    names = "|".join(signature.parameters)
    text = re.sub(rf"^({names}): ", r"- `\1`: ", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return f"#### craftc.{function.__name__}\n\n```\n{call}\n```\n\n{text}\n"


def _arguments(signature: inspect.Signature, module: str) -> Iterator[str]:
    keyword_only = False
    for argument in signature.parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        default = "" if argument.default is argument.empty else f" = {_shown(argument.default)}"
        yield f"{argument.name}: {_spelled(argument.annotation, module)}{default}"


def _value(value: type[Any]) -> str:
    meanings = _field_texts(value)
    rows = [
        (f"`{field.name}`", f"`{_spelled(str(field.type), value.__module__)}`", _default(field), meanings[field.name])
        for field in fields(value)
    ]
    head = ("field", "type", "default", "meaning")
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, ("---",) * 4, *rows)]
    members = [f"- `{name}`: {text}" for name, text in _members(value)]
    table = "\n".join(f"| {line} |" for line in lines)
    return "\n\n".join(filter(None, [f"#### {_name(value)}", inspect.getdoc(value), table, "\n".join(members)])) + "\n"


def _error(error: type[Exception]) -> str:
    return f"#### {_name(error)}\n\n{inspect.getdoc(error)} A `{error.__bases__[0].__name__}`.\n"


def _name(value: type[Any]) -> str:
    return f"craftc.{value.__name__}" if value.__name__ in craftc.__all__ else value.__name__


def _field_texts(value: type[Any]) -> dict[str, str]:
    """What stands behind every field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _members(value: type[Any]) -> Iterator[tuple[str, str]]:
    """Public methods and properties with their first sentences."""
    for name, member in vars(value).items():
        if name.startswith("_"):
            continue
        function = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
        if not inspect.isfunction(function) or not function.__doc__:
            continue
        called = inspect.isfunction(member) or isinstance(member, classmethod | staticmethod)
        own = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "cls")]
        yield f"{name}({', '.join(own)})" if called else name, " ".join((inspect.getdoc(function) or "").split())


def _default(field: Any) -> str:
    return "" if field.default is MISSING else f"`{_shown(field.default)}`"


def _shown(value: object) -> str:
    """A default as it is written: the options of a dataclass are their own defaults."""
    return f"{type(value).__name__}()" if is_dataclass(value) else repr(value)


def _spelled(annotation: str, module: str) -> str:
    """`annotation` with the names of choices (`EffortName`) spelled out."""

    def choices(name: re.Match[str]) -> str:
        alias = getattr(sys.modules[module], name[0], None)
        return " | ".join(map(repr, get_args(alias))) if get_origin(alias) is Literal else name[0]

    return re.sub(r"\w+", choices, annotation)


if __name__ == "__main__":
    PAGE.write_text(page_with_reference(PAGE.read_text()))
