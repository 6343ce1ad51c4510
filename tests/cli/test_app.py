import subprocess
import sys

import pytest

from craftc import __version__
from craftc.cli.app import COMMANDS
from craftc.cli.options import DEFAULT_PLANNER
from craftc.planning_options import PlanningOptions
from craftc.solvers.planners.registry import PLANNERS
from tests.cli.command_line import LOADS, PLAN, run
from tests.places import ROOT


def test_help_lists_every_command(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "--help")
    assert ran.code == 0
    assert ran.err == ""
    for command in COMMANDS:
        assert f"\n  {command.__name__} " in ran.out


def test_no_arguments_are_help(capfd: pytest.CaptureFixture[str]):
    assert run(capfd).out == run(capfd, "--help").out


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_has_help_and_both_formats(capfd: pytest.CaptureFixture[str], command: str):
    ran = run(capfd, command, "--help")
    assert ran.code == 0
    assert "--format <text|json>" in ran.out


def test_version(capfd: pytest.CaptureFixture[str]):
    assert run(capfd, "--version").out == f"craftc {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'; see craftc --help"),
        (["show"], "Missing argument 'PLAN'; see craftc show --help"),
        (["show", PLAN, "--colour"], "No such option: --colour"),
        (["show", PLAN, "--format", "xml"], "xml"),
        (["plan", "--loads", LOADS, "--gpus", "many"], "Invalid value for '--gpus': Input should be a valid integer"),
        (["plan", "--loads", LOADS], "Missing option '--gpus'"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(capfd: pytest.CaptureFixture[str], arguments: list[str], message: str):
    ran = run(capfd, *arguments)
    assert ran.code == 2
    assert message in ran.error_line


def test_the_planners_of_the_help_are_the_registered_ones(capfd: pytest.CaptureFixture[str]):
    assert PlanningOptions().planner == DEFAULT_PLANNER
    help_text = run(capfd, "plan", "--help").out
    for name in PLANNERS:
        assert name in help_text


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["show", PLAN]])
def test_what_needs_no_model_imports_no_torch(arguments: list[str]):
    script = (
        f"import sys; from craftc.cli import main; code = main({arguments!r});"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_imports_neither_numpy_nor_pydantic():
    script = "import sys; from craftc.cli import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60).returncode == 0
