"""craftc diff, and craftc plan --from."""

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.plans.file import read_plan
from tests.cli.command_line import LOADS, PLAN, Ran, check_golden, run

GOLDEN_SIZE = read_plan(Path(PLAN)).layers[0].expert_bytes


@pytest.fixture
def drifted(tmp_path: Path) -> str:
    """Loads of the same layers with other hot experts."""
    with np.load(LOADS) as old:
        arrays = {name: old[name] for name in old.files}
    arrays["counts"] = arrays["counts"][:, :, ::-1]
    np.savez(tmp_path / "drifted.npz", **arrays)
    return str(tmp_path / "drifted.npz")


def replan(capfd: pytest.CaptureFixture[str], loads: str, output: Path, *more: str) -> Ran:
    old = read_plan(Path(PLAN))
    topology = ("--gpus", str(old.topology.gpus), "--nodes", str(old.topology.nodes))
    options = ("--loads", loads, "--budget", f"{old.budget.bytes}B", "--from", PLAN, "-o", str(output))
    return run(capfd, "plan", *topology, *options, *more)


def test_no_moves_returns_the_old_placements(capfd: pytest.CaptureFixture[str], tmp_path: Path, drifted: str):
    ran = replan(capfd, drifted, tmp_path / "new.json", "--max-move", "0B")
    assert ran.code == 0, ran.err
    assert read_plan(tmp_path / "new.json").layers == read_plan(Path(PLAN)).layers
    assert "0 experts to receive" in ran.out
    assert "no copy moves" in run(capfd, "diff", PLAN, str(tmp_path / "new.json")).out


def test_diff_as_text_and_json(capfd: pytest.CaptureFixture[str], tmp_path: Path, drifted: str):
    limit = 3 * GOLDEN_SIZE
    ran = replan(capfd, drifted, tmp_path / "new.json", "--max-move", f"{limit}B", "--format", "json")
    changes = json.loads(ran.out)["diff"]
    assert 0 < changes["moved_bytes"] <= limit
    assert sum(move["bytes"] for move in changes["moves"]) == changes["moved_bytes"]
    text = run(capfd, "diff", PLAN, str(tmp_path / "new.json"))
    assert (text.code, text.err) == (0, "")
    check_golden("diff.txt", text.out)
    document = run(capfd, "diff", PLAN, str(tmp_path / "new.json"), "--format", "json")
    assert json.loads(document.out) == changes
    check_golden("diff.json", document.out)


def test_without_a_limit_slots_that_stay_keep_their_position(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, drifted: str
):
    assert replan(capfd, drifted, tmp_path / "new.json").code == 0
    changes = json.loads(run(capfd, "diff", PLAN, str(tmp_path / "new.json"), "--format", "json").out)
    assert {gpu["reordered"] for gpu in changes["gpus"]} == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-move", "1G"), "ambiguous"),
        (("--max-move", "-1B"), "expected a number and a unit"),
        (("--max-move", "lots"), "expected a number and a unit"),
        (("--curve", "c.png"), "--curve draws how --budget auto chose"),
    ],
)
def test_wrong_options(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, drifted: str, options: tuple[str, ...], message: str
):
    ran = replan(capfd, drifted, tmp_path / "new.json", *options)
    assert ran.code == 2
    assert message in ran.error_line
    assert not (tmp_path / "new.json").exists()


def test_a_limit_needs_the_plan_in_use(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    options = (
        "--loads",
        LOADS,
        "--gpus",
        "4",
        "--budget",
        "0B",
        "--expert-bytes",
        "64B",
        "-o",
        str(tmp_path / "p.json"),
    )
    assert "needs the plan in use" in run(capfd, "plan", *options, "--max-move", "1MiB").error_line


def test_plans_that_do_not_belong_together(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    document = json.loads(Path(PLAN).read_text())
    document["layers"][0]["name"] = "elsewhere"
    (tmp_path / "other.json").write_text(json.dumps(document))
    ran = run(capfd, "diff", PLAN, str(tmp_path / "other.json"))
    assert ran.code == 2
    assert "elsewhere in the new one" in ran.error_line


def test_no_such_plan(capfd: pytest.CaptureFixture[str]):
    assert "No such file" in run(capfd, "diff", PLAN, "none.json").error_line
