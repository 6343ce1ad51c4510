import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command_line import LOADS, PLAN, run


def test_on_its_own_loads_a_plan_is_what_it_says(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    plan = str(tmp_path / "plan.json")
    options = ["--gpus", "4", "--nodes", "2", "--budget", "25%", "--expert-bytes", "256B", "-o", plan]
    assert run(capfd, "plan", "--loads", LOADS, *options).code == 0
    estimate = json.loads(Path(plan).read_text())["estimate"]
    ran = run(capfd, "evaluate", plan, "--loads", LOADS, "--format", "json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["own_loads"] is True
    assert found["planned"] == pytest.approx(estimate["balancedness"], abs=1e-12)
    assert found["bound"] == pytest.approx(estimate["bound"], abs=1e-12)
    for name in ("contiguous", "planned", "bound"):
        layers = [layer[name] for layer in estimate["layers"]]
        assert [layer[name] for layer in found["layers"]] == pytest.approx(layers, abs=1e-12)


def test_other_loads_are_named_so(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "other.npz", counts=np.ones((3, 2, 8), dtype=int))
    ran = run(capfd, "evaluate", PLAN, "--loads", str(tmp_path / "other.npz"))
    assert "3 steps of loads the plan was not made from" in ran.out


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 1, 8), "has 1 layers, the plan has 2"), ((3, 2, 9), "has 9 experts, layer 0 (layers.0.experts) of the plan")],
)
def test_loads_of_another_model(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, shape: tuple[int, int, int], message: str
):
    np.savez(tmp_path / "other.npz", counts=np.ones(shape, dtype=int))
    ran = run(capfd, "evaluate", PLAN, "--loads", str(tmp_path / "other.npz"))
    assert ran.code == 2
    assert message in ran.error_line


def test_a_picture(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = run(capfd, "evaluate", PLAN, "--loads", LOADS, "--picture", str(tmp_path / "loads.svg"))
    assert ran.code == 0
    assert "<svg" in (tmp_path / "loads.svg").read_text()
