import json
from pathlib import Path

import pytest

from tests.cli.command_line import PLAN, check_golden, run


def test_text(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "show", PLAN)
    assert ran.code == 0
    assert ran.err == ""
    check_golden("show.txt", ran.out)


def test_json_is_the_plan_file(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "show", PLAN, "--format", "json")
    assert json.loads(ran.out) == json.loads(Path(PLAN).read_text())


def test_a_plan_without_estimate(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    document = json.loads(Path(PLAN).read_text()) | {"estimate": None}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    ran = run(capfd, "show", str(tmp_path / "plan.json"))
    assert "judge it with craftc evaluate PLAN --loads FILE" in ran.out


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not JSON"), ("{}", 'expected "format"'), ('{"format": "craftc.plan/9"}', "craftc.plan/9 is not known")],
)
def test_a_bad_plan_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str):
    (tmp_path / "plan.json").write_text(text)
    ran = run(capfd, "show", str(tmp_path / "plan.json"))
    assert ran.code == 2
    assert message in ran.error_line


def test_no_such_file(capfd: pytest.CaptureFixture[str]):
    assert "No such file" in run(capfd, "show", "none.json").error_line
