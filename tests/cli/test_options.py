"""`--expert-bytes` at every command that takes sizes: for all layers or for some, with a model or without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.plans.file import read_plan
from craftc.plans.replication_plan import ReplicationPlan
from craftc.plans.verifier import require_sound
from tests.cli.command_line import LOADS, MODEL, run

GPUS = ("--gpus", "4")
PLANNING = (*GPUS, "--budget", "1replicas/gpu", "--effort", "low")


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Case 03: SGLang's dump [steps, decoder layers, experts], its first three layers without tokens."""
    torch = pytest.importorskip("torch")
    counts_SLE = np.zeros((4, 6, 8), dtype=np.int32)
    counts_SLE[:, 3:] = np.random.default_rng(0).integers(1, 50, (4, 3, 8))
    path = tmp_path / "expert_distribution_recorder_1.0.pt"
    dump = {"rank": 0, "logical_count": torch.from_numpy(counts_SLE), "average_utilization_rate_over_window": None}
    torch.save(dump, path)
    return str(path)


def made(path: Path) -> ReplicationPlan:
    plan = read_plan(path)
    require_sound(plan)
    return plan


def test_layers_of_different_sizes_are_planned_shown_evaluated_and_exported(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, sizes = tmp_path / "plan.json", ("--expert-bytes", "64B", "--expert-bytes", "1=16B")
    ran = run(capfd, "plan", "--loads", LOADS, *GPUS, "--budget", "200B", *sizes, "-o", str(path))
    assert ran.code == 0, ran.err
    plan = made(path)
    assert [layer.expert_bytes for layer in plan.layers] == [64, 16]
    assert plan.budget.spent_bytes == sum(layer.replicas * layer.expert_bytes for layer in plan.layers) <= 200
    assert "64 B" in run(capfd, "show", str(path)).out
    assert run(capfd, "evaluate", str(path), "--loads", LOADS).code == 0
    assert run(capfd, "export", str(path), "--to", "sglang", "--pad", "-o", str(tmp_path / "sglang.json")).code == 0


def test_a_size_that_is_given_decides_over_the_models(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    sizes = ("--expert-bytes", "layers.1.experts=16B")
    assert run(capfd, "plan", MODEL, "--loads", LOADS, *PLANNING, *sizes, "-o", str(path)).code == 0
    assert [layer.expert_bytes for layer in made(path).layers] == [256, 16]
    ran = run(capfd, "inspect", MODEL, "--expert-bytes", "1KiB", "--format", "json")
    assert {layer["expert_bytes"] for layer in json.loads(ran.out)["layers"]} == {1024}


def test_case_03_a_servers_placement_without_a_model_config(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, recording: str
) -> None:
    first, placement, second, third = (tmp_path / name for name in ("a.json", "s.json", "b.json", "c.json"))
    sizes = ("--expert-bytes", "1MiB", "--expert-bytes", "4=2MiB")
    planning = ("plan", "--loads", recording, *PLANNING, "--uniform", *sizes)
    assert run(capfd, *planning, "-o", str(first)).code == 0
    assert run(capfd, "export", str(first), "--to", "sglang", "-o", str(placement)).code == 0
    assert run(capfd, *planning, "--from", str(placement), "--as", "sglang", "-o", str(second)).code == 0
    assert [layer.expert_bytes for layer in made(second).layers] == [2**20, 2**21, 2**20]
    ran = run(capfd, "convert", str(placement), "--as", "sglang", *GPUS, *sizes, "-o", str(third))
    assert ran.code == 0, ran.err
    converted = made(third)
    assert [layer.expert_bytes for layer in converted.layers] == [2**20] * 4 + [2**21, 2**20]
    assert [layer.placement for layer in converted.layers[3:]] == [layer.placement for layer in made(first).layers]
    ran = run(capfd, "evaluate", str(placement), "--as", "sglang", "--loads", recording, *GPUS, *sizes)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", *PLANNING, "--loads", LOADS, "--expert-bytes", "9=1KiB", "-o", "p.json"), "9=...: no such MoE layer"),
        (("plan", *PLANNING, "--loads", LOADS, "--expert-bytes", "1=1KiB", "-o", "p.json"), "gives no size for layer"),
        (("plan", *PLANNING, "--loads", LOADS, "-o", "p.json"), "give --expert-bytes (such as 84MiB), or the model"),
        (("convert", "s.json", "--as", "sglang", *GPUS, "-o", "p.json"), "--expert-bytes such as 84MiB"),
        (("convert", LOADS, "--expert-bytes", "1KiB", "-o", "p.npz"), "--expert-bytes goes with --as FORMAT"),
        (
            ("plan", *PLANNING, "--loads", LOADS, "--from", "s.json", "--as", "sglang", "-o", "p.json"),
            "with --model-config config.json or --expert-bytes SIZE",
        ),
    ],
)
def test_what_is_missing_or_wrong(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(capfd, *arguments)
    assert ran.code == 2
    assert message in ran.error_line
