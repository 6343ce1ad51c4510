"""Help that a reader can use: panels where there are many options, and an example that works."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from craftc.cli.app import COMMANDS
from craftc.cli.command_help import help_and_example
from craftc.loads.read_loads import read_loads
from tests.cli.command_line import LOADS, MODEL, PLAN, run
from tests.loads.recordings.writers import COUNTS_SLE, with_dense_layer, write_stat
from tests.serving.small_server import GROUPED


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that examples name."""
    for name, source in {"model.py": MODEL, "plan.json": PLAN, "running.json": PLAN}.items():
        shutil.copy(source, tmp_path / name)
    for name in ("loads.npz", "tomorrow.npz"):
        shutil.copy(LOADS, tmp_path / name)
    # As many layers and experts as the loads have.
    (tmp_path / "config.json").write_text(json.dumps({**GROUPED, "num_hidden_layers": 2, "num_local_experts": 8}))
    write_stat(tmp_path / "expert_distribution_recorder_1764.5.pt", with_dense_layer(COUNTS_SLE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_the_example_at_the_end_of_the_help_works(capfd: pytest.CaptureFixture[str], files: Path, command):
    help_text = run(capfd, command.__name__, "--help").out
    example = help_text.rstrip().splitlines()[-1].strip()
    assert help_text.rstrip().splitlines()[-2] == "Example:"
    assert example == help_and_example(command)[1].splitlines()[-1]
    name, *arguments = shlex.split(example)
    assert (name, arguments[0]) == ("craftc", command.__name__)
    assert run(capfd, *arguments).code == 0


def test_many_options_stand_in_panels_and_every_option_in_one(capfd: pytest.CaptureFixture[str]):
    panels = re.split(r"\n(?=[A-Z]\w+:\n)", run(capfd, "plan", "--help").out)
    assert [panel.partition(":")[0] for panel in panels[1:]] == [
        "Arguments", "Input", "Budget", "Serving", "Search", "Replanning", "Output", "Example",
    ]  # fmt: skip
    shown = [option for panel in panels[2:-1] for option in re.findall(r"\n  (?:-\w, )?(--[\w-]+)", panel)]
    assert len(shown) == len(set(shown)) == len(inspect.signature(COMMANDS[2]).parameters)  # less MODEL, plus --help


def test_few_options_are_one_list(capfd: pytest.CaptureFixture[str]):
    out = run(capfd, "profile", "--help").out
    assert re.findall(r"\n([A-Z]\w+):\n", out) == ["Arguments", "Options", "Example"]


def test_examples_read_the_loads_they_name(files: Path):
    assert read_loads(files / "loads.npz").layers == 2
