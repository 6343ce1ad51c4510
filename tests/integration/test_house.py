"""The building: where things are, and what nobody does any more. import-linter checks who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from craftc.passes.base import Pass
from craftc.solvers.planners.registry import PLANNERS
from tests.places import ROOT

MODULES = {"__init__", "api", "run", "errors", "units", "topology", "budget", "planning_options"}
ROOMS = {
    "backend", "cli", "deployment", "files", "loads", "manifests", "models", "plans", "ranks", "report", "runtime",
    "serving",
}  # fmt: skip
STAGES = ("analysis", "planning", "rewriting")
SOURCES = [
    path
    for folder in ("craftc", "passes", "solvers")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_relative_to(ROOT / "craftc" / "passes") and not path.is_relative_to(ROOT / "craftc" / "solvers")
]


def nodes(kind: type[ast.AST], paths: list[Path] = SOURCES) -> Iterator[tuple[Path, ast.AST]]:
    """All syntax nodes of one kind, with the files they are in."""
    for path in paths:
        yield from ((path, node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind))


def test_the_roof_has_eight_modules_and_twelve_rooms():
    found = [path for path in (ROOT / "craftc").iterdir() if path.name != "__pycache__" and not path.is_symlink()]
    assert {path.stem for path in found if path.suffix == ".py"} == MODULES
    assert {path.name for path in found if path.is_dir()} == ROOMS
    assert {path.name for path in found if path.is_file() and path.suffix != ".py"} == {"py.typed"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_a_stage_is_one_pass_of_that_name(stage: str):
    for path in (ROOT / "passes" / stage).glob("*.py"):
        if path.stem == "__init__":
            continue
        module = import_module(f"craftc.passes.{stage}.{path.stem}")
        passes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Pass) and value.__module__ == module.__name__
        ]
        assert [value.name for value in passes] == [path.stem]


def test_helpers_of_passes_lie_one_folder_deeper_and_are_no_passes():
    deeper = [path for stage in STAGES for path in (ROOT / "passes" / stage).glob("*/*.py")]
    assert deeper
    bases = {base.id for _, node in nodes(ast.ClassDef, deeper) for base in node.bases if isinstance(base, ast.Name)}  # type: ignore[attr-defined]
    assert "Pass" not in bases


def test_only_the_pipelines_start_a_compilation():
    starting = {
        path.relative_to(ROOT).as_posix()
        for path, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "Compilation"  # type: ignore[attr-defined]
    }
    assert starting == {"passes/pipelines.py", "passes/compilation.py"}


def test_nobody_asks_for_the_class_or_the_name_of_a_planner():
    classes = {type(planner).__name__ for planner in PLANNERS.values()} | {"UniformPlanner", "StepwisePlanner"}
    asked = [
        path
        for path, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance" and classes & _names(node)  # type: ignore[attr-defined]
    ]
    compared = [
        path.relative_to(ROOT).as_posix()
        for path, node in nodes(ast.Compare)
        if any(isinstance(part, ast.Constant) and part.value in PLANNERS for part in ast.walk(node))
    ]
    assert asked == []
    assert compared == ["craftc/backend/options.py"], "there the name is that of a Dynamo backend"


def test_few_assertions_that_something_is_known():
    known = [
        path
        for path, node in nodes(ast.Assert)
        if isinstance(test := node.test, ast.Compare)  # type: ignore[attr-defined]
        and isinstance(test.ops[0], ast.IsNot)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    ]
    assert len(known) < 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_enough_to_read(path: Path):
    assert len(path.read_text().splitlines()) < 300


@pytest.mark.parametrize("command", ["plan", "optimize"])
def test_the_commands_that_do_most_are_short_enough_to_read(command: str):
    functions = nodes(ast.FunctionDef, [ROOT / "craftc" / "cli" / f"{command}.py"])
    body = next(node for _, node in functions if node.name == command).body[1:]  # type: ignore[attr-defined]
    assert body[-1].end_lineno - body[0].lineno < 55  # without options and help


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
