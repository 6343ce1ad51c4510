import json
from pathlib import Path

import pytest

from tests.cli.command_line import GOLDEN, MODEL, PLAN, check_golden, run


def test_text(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "verify", MODEL, PLAN)
    assert ran.code == 0
    check_golden("verify.txt", ran.out)


def test_json(capfd: pytest.CaptureFixture[str]):
    document = json.loads(run(capfd, "verify", MODEL, PLAN, "--format", "json").out)
    assert document["equal"] is True
    assert all(document["max_abs_difference"][what] <= allowed for what, allowed in document["tolerance"].items())


def test_a_rewrite_that_computes_something_else_is_the_answer_no(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """An expert that counts its rows gives other outputs when copies of it run in turn."""
    text = (GOLDEN / "model.py").read_text()
    counts = "\n\nclass Counts(nn.Linear):\n    def forward(self, x):\n        return super().forward(x) + x.shape[0]\n"
    text = text.replace("\n\nclass Router", f"{counts}\n\nclass Router", 1)
    experts = "nn.Linear(HIDDEN, HIDDEN, bias=False) for _"
    assert experts in text
    (tmp_path / "model.py").write_text(text.replace(experts, experts.replace("nn.Linear", "Counts")))
    ran = run(capfd, "verify", str(tmp_path / "model.py"), PLAN, "--format", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["error"]["kind"] == "VerificationFailed"


def test_a_plan_of_another_model(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    document = json.loads(Path(PLAN).read_text())
    document["layers"][1]["name"] = "layers.9.experts"
    (tmp_path / "plan.json").write_text(json.dumps(document))
    ran = run(capfd, "verify", MODEL, str(tmp_path / "plan.json"))
    assert ran.code == 2
    assert "layers.9.experts" in ran.error_line
