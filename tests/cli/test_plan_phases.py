"""`craftc plan`: phases are found and told of, and `--per-phase` plans for each."""

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.loads.read_loads import read_loads
from craftc.plans.file import read_plan
from tests.cli.command_line import LOADS, MODEL, run
from tests.cli.test_plan import plan
from tests.solvers.loads_in_phases import loads_in_phases
from tests.solvers.loads_that_drift import steady_loads

NAMES = [f"{name}_{step}" for step in range(8) for name in ("prefill", "decode")]
OPTIONS = {"gpus": "16", "budget": "2replicas/gpu"}


@pytest.fixture
def loads(tmp_path: Path) -> str:
    """Prefill and decode in turn."""
    path = tmp_path / "loads.npz"
    np.savez(path, counts=loads_in_phases((0, 1) * 8), step_names=NAMES)
    return str(path)


@pytest.fixture
def alike(tmp_path: Path) -> str:
    path = tmp_path / "alike.npz"
    np.savez(path, counts=steady_loads())
    return str(path)


def phase_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("phases: ")]


def test_phases_that_differ_are_told_of_in_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path, loads: str):
    ran = plan(capfd, tmp_path / "plan.json", loads=loads, **OPTIONS)
    assert ran.code == 0, ran.err
    (line,) = phase_lines(ran.out)
    assert "prefill (8 steps: 0, 2, ..., 14), decode (8 steps: 1, 3, ..., 15)" in line
    assert line.endswith("craftc plan --per-phase writes a plan for each")
    document = json.loads(plan(capfd, tmp_path / "plan.json", "--format", "json", loads=loads, **OPTIONS).out)
    assert document["phases"]["pays"]
    assert document["phases"]["gain"] >= 0.01
    assert [phase["name"] for phase in document["phases"]["phases"]] == ["prefill", "decode"]
    assert document["phases"]["phases"][1]["steps"] == list(range(1, 16, 2))


def test_steps_that_are_alike_are_not(capfd: pytest.CaptureFixture[str], tmp_path: Path, alike: str):
    ran = plan(capfd, tmp_path / "plan.json", loads=alike, **OPTIONS)
    assert phase_lines(ran.out) == []
    assert "phases" not in json.loads(
        plan(capfd, tmp_path / "plan.json", "--format", "json", loads=alike, **OPTIONS).out
    )


def test_a_plan_for_each_phase(capfd: pytest.CaptureFixture[str], tmp_path: Path, loads: str):
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=loads, **OPTIONS)
    assert ran.code == 0, ran.err
    assert len(phase_lines(ran.out)) == 1
    assert not (tmp_path / "plan.json").exists()
    for number, name in enumerate(("prefill", "decode")):
        file = tmp_path / f"plan.{name}.json"
        made = read_plan(file)
        assert f"wrote {file}" in ran.out
        own = read_loads(Path(loads)).select_steps(slice(number, None, 2))
        assert made.provenance.loads == f"sha256:{own.sha256}"
        np.savez(tmp_path / "own.npz", counts=own.counts_SLE, step_names=own.step_names)
        assert plan(capfd, tmp_path / "own.json", loads=str(tmp_path / "own.npz"), **OPTIONS).code == 0
        assert (tmp_path / "own.json").read_bytes() == file.read_bytes(), "as if these were all the loads"


def test_json_has_every_plan(capfd: pytest.CaptureFixture[str], tmp_path: Path, loads: str):
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", "--format", "json", loads=loads, **OPTIONS)
    document = json.loads(ran.out)
    files = [str(tmp_path / f"plan.{name}.json") for name in ("prefill", "decode")]
    assert document["files"] == files
    assert list(document["plans"]) == ["prefill", "decode"]
    for file, shown in zip(files, document["plans"].values(), strict=True):
        assert shown["plan"] == json.loads(Path(file).read_text())
    assert document["phases"]["gain"] > 0


def test_phases_without_gain_are_planned_and_it_is_said(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "alike.npz", counts=steady_loads(steps=16), step_names=NAMES)
    ran = plan(capfd, tmp_path / "plan", "--per-phase", loads=str(tmp_path / "alike.npz"), **OPTIONS)
    assert ran.code == 0, ran.err
    (line,) = phase_lines(ran.out)
    assert "(prefill " in line
    assert "--per-phase" not in line
    assert {path.name for path in tmp_path.iterdir()} == {"alike.npz", "plan.prefill", "plan.decode"}


def test_budget_auto_is_chosen_for_each(capfd: pytest.CaptureFixture[str], tmp_path: Path, loads: str):
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=loads, gpus="8", budget="auto")
    assert ran.code == 0, ran.err
    assert ran.out.count("<- chosen") == 2


def test_warnings_name_their_phase(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    counts = np.concatenate([steady_loads(), 1 + steady_loads(seed=1)])
    counts[8:] = np.random.default_rng(0).permuted(counts[8:], axis=2)
    np.savez(tmp_path / "loads.npz", counts=counts, step_names=["steady"] * 8 + ["drifting"] * 8)
    ran = plan(
        capfd, tmp_path / "p.json", "--per-phase", loads=str(tmp_path / "loads.npz"), gpus="8", budget="4replicas/gpu"
    )
    assert ran.code == 0, ran.err
    warnings = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert all(warning.startswith("warning: drifting: over-fitting") for warning in warnings)


def test_no_phases_no_plans(capfd: pytest.CaptureFixture[str], tmp_path: Path, alike: str):
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=alike, **OPTIONS)
    assert ran.code == 2
    assert "no phases in 8 steps" in ran.error_line
    assert "at least 4 steps" in ran.error_line
    assert [path.name for path in tmp_path.iterdir()] == ["alike.npz"]


def test_what_does_not_go_with_it_is_refused_before_the_loads_are_read(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    assert plan(capfd, tmp_path / "old.json").code == 0
    missing, output = str(tmp_path / "none.npz"), tmp_path / "plan.json"
    ran = plan(capfd, output, "--per-phase", "--from", str(tmp_path / "old.json"), loads=missing)
    assert (ran.code, "does not go with --from" in ran.error_line) == (2, True)
    ran = plan(capfd, output, "--per-phase", "--curve", str(tmp_path / "c.png"), loads=missing, budget="auto")
    assert (ran.code, "does not go with --curve" in ran.error_line) == (2, True)


def test_all_files_can_be_written_or_none_is(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, loads: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "plan.prefill.json").write_text("old")
    (tmp_path / "plan.decode.json").mkdir()
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=loads, **OPTIONS)
    assert "plan.decode.json is a folder" in ran.error_line
    assert "place_replicas" not in ran.err, "refused before the work"
    (tmp_path / "plan.decode.json").rmdir()
    full = Path.write_bytes

    def disk_full(path: Path, data: bytes) -> int:
        if ".plan.decode" in path.name:
            raise OSError(28, "No space left on device")
        return full(path, data)

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=loads, **OPTIONS)
    assert ran.code == 2
    assert f"cannot write {tmp_path / 'plan.decode.json'}: No space left" in ran.error_line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loads.npz", "plan.prefill.json"]
    assert (tmp_path / "plan.prefill.json").read_text() == "old"


def test_a_layer_without_tokens_in_a_phase(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    counts = loads_in_phases((0, 1) * 8)
    counts[1::2, 2] = 0
    np.savez(tmp_path / "loads.npz", counts=counts, step_names=NAMES)
    ran = plan(capfd, tmp_path / "plan.json", "--per-phase", loads=str(tmp_path / "loads.npz"), **OPTIONS)
    assert ran.code == 2
    assert "layer 2 (layers.2) has no tokens in any of 8 steps" in ran.error_line
    assert plan(capfd, tmp_path / "plan.json", loads=str(tmp_path / "loads.npz"), **OPTIONS).code == 0


def test_optimize_tells_of_phases_too(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    _, layers, experts = np.load(LOADS)["counts"].shape
    counts = loads_in_phases((0, 1) * 8, layers=layers, experts=experts)
    np.savez(tmp_path / "loads.npz", counts=counts, step_names=NAMES)
    options = ["--loads", str(tmp_path / "loads.npz"), "--gpus", "4", "--budget", "1replica/gpu"]
    ran = run(capfd, "optimize", MODEL, *options, "--out", str(tmp_path / "out"), "--format", "json")
    assert ran.code == 0, ran.err
    assert [phase["name"] for phase in json.loads(ran.out)["phases"]["phases"]] == ["prefill", "decode"]
    ran = run(capfd, "optimize", MODEL, *options, "--out", str(tmp_path / "out"))
    assert phase_lines(ran.out) == phase_lines((tmp_path / "out" / "report.txt").read_text())
    ran = run(capfd, "optimize", MODEL, *options, "--stop-after", "find_phases", "--format", "json")
    assert len(json.loads(ran.out)["phases"]["phases"]) == 2
