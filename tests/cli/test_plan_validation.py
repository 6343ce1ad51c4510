"""`craftc plan`: over-fitting is warned of, and steps left out decide unless they are told not to."""

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.plans.file import read_plan
from tests.cli.command_line import Ran, run
from tests.cli.test_plan import plan
from tests.places import TRACES
from tests.solvers.loads_that_drift import drifting_loads, steady_loads


def warnings_of(ran: Ran) -> list[str]:
    return [line for line in ran.err.splitlines() if line.startswith("warning: ")]


def test_replicas_that_fit_only_the_steps_seen_are_warned_of(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "drifting.npz", counts=drifting_loads())
    output = tmp_path / "plan.json"
    ran = plan(capfd, output, loads=str(tmp_path / "drifting.npz"), gpus="8", budget="4replicas/gpu")
    warnings, own = warnings_of(ran), read_plan(output).warnings
    assert warnings == [f"warning: {each}" for each in own]
    assert "replicas gain" in own[-1]
    assert "gained by replicas" in ran.out
    assert warnings_of(run(capfd, "show", str(output))) == warnings
    as_json = plan(
        capfd, output, "--format", "json", loads=str(tmp_path / "drifting.npz"), gpus="8", budget="4replicas/gpu"
    )
    assert json.loads(as_json.out)["warnings"] == list(own)


def test_replicas_that_hold_are_not(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "steady.npz", counts=steady_loads())
    ran = plan(capfd, tmp_path / "p.json", loads=str(tmp_path / "steady.npz"), gpus="8", budget="4replicas/gpu")
    assert ran.code == 0
    assert warnings_of(ran) == []
    assert "gained by replicas" in ran.out


def test_left_out_steps_are_not_asked_if_they_are_told_not_to(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def retained(problem, planner, own, fold_S):
        asked.append(fold_S)
        return own

    monkeypatch.setattr("craftc.passes.planning.validate_curves.retained_curves", retained)
    np.savez(tmp_path / "steady.npz", counts=steady_loads())
    for options, times in ((("--no-cross-validate",), 0), ((), 1)):
        ran = plan(capfd, tmp_path / "plan.json", *options, loads=str(tmp_path / "steady.npz"), gpus="8")
        assert ran.code == 0, ran.err
        assert len(asked) == times


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
def test_unlike_domains_are_warned_of(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    trace = str(TRACES / "glm-5.2-domains.npz")
    options = {"loads": trace, "gpus": "64", "nodes": "8", "budget": "8replicas/gpu", "size": "84MiB"}
    warnings = warnings_of(plan(capfd, tmp_path / "plan.json", "--planner", "craft", **options))
    assert "over-fitting: replicas gain 0." in warnings[-1]


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
def test_decoding_is_not_warned_of(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    counts = np.load(TRACES / "gpt-oss-20b-decode.npz")["counts"]
    sums = np.add.reduceat(counts, np.arange(0, len(counts) // 16 * 16, 16), axis=0)[: len(counts) // 16]
    np.savez(tmp_path / "loads.npz", counts=sums[np.linspace(0, len(sums) - 1, 120).round().astype(int)])
    ran = plan(
        capfd, tmp_path / "p.json", loads=str(tmp_path / "loads.npz"), gpus="8", nodes="1", budget="8replicas/gpu"
    )
    assert ran.code == 0, ran.err
    assert warnings_of(ran) == []
