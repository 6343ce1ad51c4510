"""The package as it is installed: every folder is in the wheel, and nothing is imported under a second name."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.places import ROOT
from tests.second_names import second_names

ROOMS = {"craftc": "craftc", "passes": "craftc.passes", "solvers": "craftc.solvers"}
"""Folders at the top level by the names that they are imported under."""


def folders_with_code() -> list[str]:
    """Import names of all folders with an `__init__.py`; the two links inside `craftc/` are not followed."""
    names = []
    for folder, name in ROOMS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inside = path.parent.relative_to(ROOT / folder)
            if (folder, inside.parts[:1]) not in (("craftc", ("passes",)), ("craftc", ("solvers",))):
                names.append(".".join((name, *inside.parts)))
    return sorted(names)


def test_every_folder_is_listed_as_a_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == folders_with_code()


def test_every_folder_with_modules_is_a_package():
    bare = {
        path.parent
        for folder in ROOMS
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()


def test_no_module_of_craftc_is_imported_under_a_second_name():
    script = (
        "import sys\n"
        "from tests.import_everything import import_everything\n"
        "from tests.second_names import second_names\n"
        "names = import_everything()\n"
        "assert 'craftc.passes.base' in names and 'craftc.solvers.problem' in names, names\n"
        "sys.exit(', '.join(second_names()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_second_name_is_seen(monkeypatch: pytest.MonkeyPatch):
    assert second_names() == []
    monkeypatch.setitem(sys.modules, "solvers.problem", sys)
    monkeypatch.setitem(sys.modules, "passes", sys)
    monkeypatch.setitem(sys.modules, "passes_of_somebody", sys)
    assert second_names() == ["passes", "solvers.problem"]
