"""--cluster of plan and optimize: one line of worth, the rule that decided, and what does not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from craftc.plans.file import read_plan
from tests.cli.command_line import GOLDEN, MODEL, Ran, run
from tests.model_families import FAMILIES
from tests.serving.small_server import LATENT, skewed_counts


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.savez(tmp_path / "loads.npz", counts=skewed_counts(1.0))
    (tmp_path / "config.json").write_text(json.dumps(LATENT))
    shutil.copy(GOLDEN / "cluster.yaml", tmp_path / "cluster.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SERVED = ("--cluster", "cluster.yaml", "--input", "1024", "--output-tokens", "128", "--chunk", "1024")


def plan(capfd: pytest.CaptureFixture[str], *more: str, budget: str = "1replicas/gpu", gpus: str = "16") -> Ran:
    where = ("--loads", "loads.npz", "--model-config", "config.json", "--gpus", gpus, "--nodes", "2")
    return run(capfd, "plan", *where, "--budget", budget, "-o", "plan.json", *more)


def test_a_plan_for_a_cluster_says_in_one_line_what_it_is_worth(capfd: pytest.CaptureFixture[str], files: Path):
    ran = plan(capfd, *SERVED)
    assert ran.code == 0, ran.err
    line = next(line for line in ran.out.splitlines() if line.startswith("predicted goodput on "))
    assert "x no replicas; KV cache -" in line
    made = read_plan("plan.json")
    assert made.estimate is not None
    assert made.estimate.goodput is not None
    assert made.provenance.objective == "step-time"


def test_the_output_says_which_rule_decided(capfd: pytest.CaptureFixture[str], files: Path):
    craft = ("--planner", "craft")
    served, alone = (
        plan(capfd, *SERVED, *craft, "--curve", "curve.svg", budget="auto"),
        plan(capfd, *craft, budget="auto"),
    )
    assert served.code == alone.code == 0, served.err + alone.err
    assert "budget auto: the smallest number of replicas per GPU within 1% of the best goodput" in served.out
    assert "budget auto: the largest number of replicas per GPU whose last one" in alone.out
    assert "predicted goodput" not in alone.out
    assert (files / "curve.svg").stat().st_size > 1000


def test_json_holds_the_curve(capfd: pytest.CaptureFixture[str], files: Path):
    document = json.loads(plan(capfd, *SERVED, "--planner", "craft", "--format", "json", budget="auto").out)
    assert document["goodput_curve"]["chosen"] == document["goodput_curve"]["band"][0]
    assert document["plan"]["estimate"]["goodput"]["input"] == 1024


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--batch", "4"), "give --cluster too"),
        (("--calibrate", "m.csv"), "give --cluster too"),
        ((*SERVED, "--per-phase"), "--per-phase does not go with --cluster"),
        (("--cluster", "h100"), "neither a file nor a preset"),
        ((*SERVED, "--batch", "4"), "--batch goes with --phase decode"),
    ],
)
def test_what_does_not_go_together_is_refused(capfd: pytest.CaptureFixture[str], files: Path, more: Any, said: str):
    ran = plan(capfd, *more)
    assert ran.code == 2
    assert said in ran.err
    assert not (files / "plan.json").exists()


def test_what_nobody_measured_is_said(capfd: pytest.CaptureFixture[str], files: Path):
    served = tuple("mi300x-ib" if word == "cluster.yaml" else word for word in SERVED)
    ran = plan(capfd, *served)
    assert ran.code == 0, ran.err
    line = next(line for line in ran.err.splitlines() if "assumed, not measured" in line)
    assert "chip.expert_efficiency" in line
    assert "chip.hbm_gib" not in line


def test_a_curve_that_cannot_be_drawn_is_refused_before_planning(capfd: pytest.CaptureFixture[str], files: Path):
    ran = plan(capfd, *SERVED, "--curve", "curve.pdf", budget="auto")
    assert ran.code == 2
    assert ".svg or .png" in ran.err
    assert not (files / "plan.json").exists()


def test_measurements_that_are_not_there_are_refused_before_planning(capfd: pytest.CaptureFixture[str], files: Path):
    ran = plan(capfd, *SERVED, "--calibrate", "none.csv")
    assert ran.code == 2
    assert "none.csv" in ran.err
    assert "read loads" not in ran.err


def test_gpus_of_another_cluster_are_refused_before_planning(capfd: pytest.CaptureFixture[str], files: Path):
    ran = plan(capfd, *SERVED, gpus="32")
    assert ran.code == 2
    assert "GPUs a node" in ran.err


def test_a_plan_without_config_is_for_no_cluster(capfd: pytest.CaptureFixture[str], files: Path):
    where = ("--loads", "loads.npz", "--expert-bytes", "24MiB", "--gpus", "16", "--nodes", "2")
    ran = run(capfd, "plan", *where, "--budget", "1replicas/gpu", "-o", "plan.json", "--cluster", "cluster.yaml")
    assert ran.code == 2
    assert "--cluster needs --model-config" in ran.err
    ran = run(capfd, "optimize", MODEL, "--gpus", "16", "--budget", "25%", "--out", "out", "--cluster", "cluster.yaml")
    assert ran.code == 2
    assert "craftc plan --model-config" in ran.err


def test_optimize_chooses_by_goodput_and_stores_the_worth(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    model: Any = FAMILIES["mixtral"].build(seed=3, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "tiny")
    where = ("--gpus", "2", "--budget", "auto", "--out", str(tmp_path / "out"), "--cluster", "h100-ib")
    ran = run(capfd, "optimize", str(tmp_path / "tiny"), *where, "--input", "64", "--output-tokens", "16")
    assert ran.code == 0, ran.err
    assert "predicted goodput on h100-ib" in ran.out
    made = read_plan(tmp_path / "out" / "plan.json")
    assert made.estimate is not None
    assert made.estimate.goodput is not None
    again = run(capfd, "optimize", str(tmp_path / "tiny"), *where, "--stop-after", "trace")
    assert again.code == 2
