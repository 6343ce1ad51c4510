"""The README's command, on the model we trained."""

import json
import re
from pathlib import Path

import pytest

from craftc.plans.file import read_plan
from tests.cli.command_line import run
from tests.places import ROOT

MODEL = str(ROOT / "examples" / "tiny_moe" / "model.py")


_ROW = re.compile(r"^(\S.*?) +([01]\.\d{3})(?: +\d\.\d{3} +([\d.]+) +[\d.]+ \w+| +[01]\.\d{3})?$", re.MULTILINE)


def assert_same_table(printed: str, readme: str) -> None:
    """The README shows the demo's real figures: the same rows, and values as near as another Python's library allows,
    which is the text that the model reads."""
    shown = {row[1]: row for row in _ROW.finditer(readme)}
    rows = list(_ROW.finditer(printed))
    assert len(rows) >= 6
    for row in rows:
        assert row[1] in shown, f"renew the README's output: no row {row[1]!r}"
        assert float(shown[row[1]][2]) == pytest.approx(float(row[2]), abs=0.05), row[0]
        assert float(shown[row[1]][3] or 0) == pytest.approx(float(row[3] or 0), abs=1), row[0]


def test_the_demo(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "demo"
    ran = run(capfd, "optimize", MODEL, "--gpus", "8", "--nodes", "2", "--budget", "25%", "--out", str(out))
    assert ran.code == 0, ran.err
    assert "wrote\n" in ran.out
    assert "outputs, float32: max abs difference " in ran.out
    assert_same_table(ran.out.partition("\n\n")[2], (ROOT / "README.md").read_text())
    plan = read_plan(out / "plan.json")
    assert plan.estimate is not None
    by_planner = {row.planner: row for row in plan.estimate.planners}
    assert by_planner["craftc"].balancedness > by_planner["placement"].balancedness + 0.3
    assert by_planner["craftc"].balancedness >= by_planner["craft"].balancedness
    assert by_planner["craftc"].balancedness > by_planner["eplb"].balancedness
    assert by_planner["craftc"].replicas_per_gpu < by_planner["eplb"].replicas_per_gpu
    again = run(capfd, "verify", MODEL, str(out / "plan.json"), "--format", "json")
    assert again.code == 0
    assert json.loads(again.out)["equal"] is True
