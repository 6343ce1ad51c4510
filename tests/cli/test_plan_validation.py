"""`craftc plan`: over-fitting is warned of, and `--validate`."""

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
    (warning,) = warnings_of(ran)
    (own,) = read_plan(output).warnings
    assert warning == f"warning: {own}"
    assert "gained by replicas" in ran.out
    assert warnings_of(run(capfd, "show", str(output))) == [warning]
    as_json = plan(
        capfd, output, "--format", "json", loads=str(tmp_path / "drifting.npz"), gpus="8", budget="4replicas/gpu"
    )
    assert json.loads(as_json.out)["warnings"] == [own]


def test_replicas_that_hold_are_not(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    np.savez(tmp_path / "steady.npz", counts=steady_loads())
    ran = plan(capfd, tmp_path / "p.json", loads=str(tmp_path / "steady.npz"), gpus="8", budget="4replicas/gpu")
    assert ran.code == 0
    assert warnings_of(ran) == []
    assert "gained by replicas" in ran.out


def test_validate_allocates_by_steps_left_out(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = plan(capfd, tmp_path / "plan.json", "--validate")
    assert ran.code == 0, ran.err
    assert read_plan(tmp_path / "plan.json").provenance.curves == "cross-validated"
    assert "benefit curves cross-validated" in ran.out
    np.savez(tmp_path / "one.npz", counts=steady_loads(steps=1))
    ran = plan(capfd, tmp_path / "one.json", "--validate", loads=str(tmp_path / "one.npz"), gpus="8")
    assert ran.code == 2
    assert "single step" in ran.error_line


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
def test_unlike_domains_are_warned_of(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    trace = str(TRACES / "glm-5.2-domains.npz")
    options = {"loads": trace, "gpus": "64", "nodes": "8", "budget": "8replicas/gpu", "size": "84MiB"}
    (warning,) = warnings_of(plan(capfd, tmp_path / "plan.json", "--planner", "craft", **options))
    assert "over-fitting: replicas gain 0." in warning


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
