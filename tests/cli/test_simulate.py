"""craftc simulate, on a small server of two nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from craftc.plans.file import write_plan
from craftc.serving.cluster import read_cluster, write_cluster
from craftc.topology import Topology
from tests.cli.command_line import GOLDEN, Ran, check_golden, run
from tests.serving.small_server import LATENT, cluster_of, plan_of, skewed_counts, skewed_loads

REQUESTS = ("--input", "1024", "--output", "128", "--chunk", "1024")
DECODE = ("--phase", "decode", "--batch", "2")
"""Without event simulation, which takes most of the time."""
SWEEP = ("--gpus", "16", "--nodes", "2", "--planner", "craft", "--replicas", "0,1,2,4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with loads, config, cluster and plans."""
    folder = tmp_path_factory.mktemp("made")
    np.savez(folder / "loads.npz", counts=skewed_counts(1.0))
    np.savez(folder / "other.npz", counts=skewed_counts(1.0, steps=5))
    np.savez(folder / "one.npz", counts=skewed_counts(1.0, steps=1))
    np.savez(folder / "wrong.npz", counts=skewed_counts(1.0, layers=3))
    (folder / "config.json").write_text(json.dumps(LATENT))
    shutil.copy(GOLDEN / "cluster.yaml", folder / "cluster.yaml")
    for name, budget in (("none.json", "0B"), ("two.json", "2replicas/gpu")):
        write_plan(plan_of(budget, skewed_loads(1.0)), folder / name)
    write_plan(plan_of("0B", skewed_loads(1.0), topology=Topology(8)), folder / "eight.json")
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulated(
    capfd: pytest.CaptureFixture[str], *options: str, loads: str = "loads.npz", cluster: str = "cluster.yaml"
) -> Ran:
    files = ("--loads", loads, "--model-config", "config.json", "--cluster", cluster)
    return run(capfd, "simulate", *files, *REQUESTS, *options)


def rounded(value: Any) -> Any:
    """Numbers to three digits, as the text has them: the last digits differ between machines."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def test_a_sweep(capfd: pytest.CaptureFixture[str], files: Path):
    ran = simulated(capfd, *SWEEP)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Balancing helps: ")
    check_golden("simulate.txt", ran.out)
    assert "warning" not in ran.err


def test_a_sweep_as_json(capfd: pytest.CaptureFixture[str], files: Path):
    ran = simulated(capfd, *SWEEP, "--format", "json")
    document = json.loads(ran.out)
    assert document["answer"] == (GOLDEN / "simulate.txt").read_text().splitlines()[0]
    check_golden("simulate.json", json.dumps(rounded(document), indent=1) + "\n")


def test_same_input_same_bytes(capfd: pytest.CaptureFixture[str], files: Path):
    first, second = (simulated(capfd, *SWEEP, *DECODE, "--format", "json", "--plot", "a.svg").out for _ in range(2))
    assert first == second
    assert json.loads(first)["files"] == ["a.svg"]


def test_several_planners_and_a_picture(capfd: pytest.CaptureFixture[str], files: Path):
    options = ("--gpus", "16", "--nodes", "2", "--planner", "craft,eplb", "--replicas", "0,2,9999")
    ran = simulated(capfd, *options, *DECODE, "--plot", "goodput.png", "--format", "json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    arms = [(arm["arm"], arm["asked_replicas_per_gpu"]) for arm in document["arms"]]
    both = [("craft", 0), ("craft", 2), ("eplb", 0), ("eplb", 2), ("eplb", 4), ("eplb as published", None)]
    assert arms == both
    assert (files / "goodput.png").read_bytes().startswith(b"\x89PNG")
    assert "warning: planner craft cannot place 9999 replicas per GPU here" in ran.err
    assert document["warnings"] == [line.removeprefix("warning: ") for line in ran.err.splitlines()[-2:]]
    assert document["chosen"]["arm"] == "craft"


def test_plans_as_they_are(capfd: pytest.CaptureFixture[str], files: Path):
    ran = simulated(capfd, "none.json", "two.json", "--format", "json", loads="other.npz")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert [arm["arm"] for arm in document["arms"]] == ["none", "none.json", "two.json", "eplb as published"]
    assert document["topology"] == {"gpus": 16, "nodes": 2, "data_parallel_ranks": 2}
    assert document["best"]["arm"] == "two.json"
    assert document["warnings"] == []


def test_plans_that_were_made_from_these_loads_are_named(capfd: pytest.CaptureFixture[str], files: Path):
    ran = simulated(capfd, "two.json", *DECODE, "--gpus", "16")
    assert "warning: two.json was made from the steps that judge it" in ran.err
    other = simulated(capfd, "two.json", *DECODE, "--judge", "other.npz")
    assert "warning" not in other.err


def test_one_step_is_warned_about_and_other_loads_can_judge(capfd: pytest.CaptureFixture[str], files: Path):
    sweep = ("--gpus", "16", "--nodes", "2", "--planner", "craft", "--replicas", "0,1", *DECODE)
    ran = simulated(capfd, *sweep, loads="one.npz")
    assert "warning: planned from and judged on one step" in ran.err
    judged = simulated(capfd, *sweep, "--judge", "other.npz", loads="one.npz")
    assert "warning" not in judged.err
    assert "planned from 1, judged on 5 others" in judged.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --gpus G, or plans to compare"),
        (("--gpus", "16"), "has 8 GPUs a node, but 16 GPUs on 1 nodes are 16 a node: give --nodes 2"),
        (("--gpus", "16", "--nodes", "3"), "16 GPUs cannot be spread evenly over 3 nodes"),
        (("--gpus", "12", "--nodes", "2"), "has 8 GPUs a node"),
        ((*SWEEP, "--judge", "wrong.npz"), "--judge wrong.npz: loads are of 3 layers"),
        ((*SWEEP, "--slo-ttft", "1us"), "is below"),
        ((*SWEEP, "--slo-itl", "1us"), "is not kept by a single request per rank, even with perfect balance"),
        ((*SWEEP, "--batch", "3"), "--batch goes with --phase decode"),
        ((*SWEEP, "--save", "c.yaml"), "--save writes what --calibrate fits: give both, or neither"),
        ((*SWEEP, "--calibrate", "absent.csv"), "absent.csv: cannot be read"),
        ((*SWEEP, "--calibrate", "config.json"), "config.json: "),
        ((*SWEEP, "--plot", "a.pdf"), "a picture is written as .svg or .png"),
        ((*SWEEP, "--plot", "none/a.svg"), "there is no folder none"),
        (("--gpus", "16", "--nodes", "2", "--planner", "best"), "planner 'best' is unknown; choose one of craft"),
        (("none.json", "none.json"), "plans: none.json is given twice"),
        (("none.json", "eight.json"), "none.json is for 16 GPUs on 2 nodes, eight.json for 8 GPUs on 1 node"),
        (("none.json", "--gpus", "8"), "--gpus 8, but none.json is for 16: drop --gpus"),
        (("none.json", "--nodes", "1"), "--nodes 1, but none.json is for 2: drop --nodes"),
        (("none.json", "--replicas", "1"), "--replicas is for planning with several numbers of replicas"),
        (("none.json", "--planner", "craft"), "--planner is for planning"),
        (("none.json", "--plot", "a.svg"), "--plot is for planning"),
        (("loads.npz",), "loads.npz: not a plan"),
        (("absent.json",), "cannot read plan absent.json"),
    ],
)
def test_what_is_wrong_is_one_line(
    capfd: pytest.CaptureFixture[str], files: Path, options: tuple[str, ...], message: str
):
    ran = simulated(capfd, *options)
    assert ran.code == 2
    assert message in ran.error_line


def test_no_memory_is_an_answer(capfd: pytest.CaptureFixture[str], files: Path):
    write_cluster(cluster_of(chip__hbm_gib=0.4), files / "cluster.yaml")
    ran = simulated(capfd, *SWEEP)
    assert ran.code == 1
    assert "no KV cache for a request of 1024 + 128 tokens on 16 GPUs" in ran.error_line


def test_files_are_checked_before_the_loads_are_read(capfd: pytest.CaptureFixture[str], files: Path):
    assert "a.pdf" in simulated(capfd, *SWEEP, "--plot", "a.pdf", loads="absent.npz").error_line
    assert "--nodes" in simulated(capfd, "--gpus", "16", loads="absent.npz").error_line


def test_calibration_is_used_reported_and_saved(capfd: pytest.CaptureFixture[str], files: Path):
    rows = ("none,0,110,480000", "craft,1,121,460000", "craft,2,118,440000", "two.json,2,119,440000")
    (files / "m.csv").write_text("\n".join(("arm,replicas_per_gpu,throughput,kv_tokens", *rows)))
    ran = simulated(capfd, *SWEEP, "--calibrate", "m.csv", "--save", "mine.yaml", "--format", "json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    found = document["calibration"]
    assert found["freed"]
    assert found["after"] < found["before"]
    assert len(found["comparisons"]) == 8
    assert set(found["warnings"]) <= set(document["warnings"])
    assert document["files"] == ["mine.yaml"]
    mine = read_cluster("mine.yaml")
    assert document["cluster"]["fingerprint"] == f"sha256:{mine.fingerprint}"
    calibrated = [path for path, figure in mine.figures if figure.origin == "calibrated"]
    assert sorted(calibrated) == sorted(found["freed"])
    again = simulated(capfd, "none.json", *DECODE, loads="other.npz", cluster="mine.yaml")
    assert again.code == 0, again.err
    assert f"{len(calibrated)} calibrated (*)" in again.out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["none,0,110"], "m.csv: 1 row has throughput or ttft_ms, calibration needs at least 3"),
        (["none,0,110", "crafty,1,121", "craft,2,118"], "m.csv: line 3: 'crafty' is not none, a planner"),
        (["none,0,110", "two.json,4,121", "craft,2,118"], "m.csv: line 3: two.json has 2 replicas per GPU"),
        (["none,0,110", "eight.json,0,121", "craft,2,118"], "eight.json is for 8 GPUs on 1 node, not 16 GPUs on 2"),
    ],
)
def test_measurements_that_cannot_be_used(
    capfd: pytest.CaptureFixture[str], files: Path, rows: list[str], message: str
):
    (files / "m.csv").write_text("\n".join(("arm,replicas_per_gpu,throughput", *rows)))
    ran = simulated(capfd, *SWEEP, "--calibrate", "m.csv")
    assert ran.code == 2
    assert message in ran.error_line
