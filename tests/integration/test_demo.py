"""The README's command, on the model we trained."""

import json
from pathlib import Path

import pytest

from craftc.plan_file import read_plan
from tests.cli.command_line import ROOT, run

MODEL = str(ROOT / "examples" / "tiny_moe" / "model.py")


def test_the_demo(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "demo"
    ran = run(capfd, "optimize", MODEL, "--gpus", "8", "--nodes", "2", "--budget", "25%", "--out", str(out))
    assert ran.code == 0, ran.err
    assert "wrote\n" in ran.out
    plan = read_plan(out / "plan.json")
    assert plan.estimate is not None
    arms = {arm.arm: arm for arm in plan.estimate.arms}
    assert arms["craftc"].balancedness > arms["placement"].balancedness + 0.3
    assert arms["craftc"].balancedness >= arms["craft"].balancedness
    assert arms["craftc"].balancedness > arms["eplb"].balancedness
    assert arms["craftc"].replicas_per_gpu < arms["eplb"].replicas_per_gpu
    again = run(capfd, "verify", MODEL, str(out / "plan.json"), "--format", "json")
    assert again.code == 0
    assert json.loads(again.out)["equal"] is True
