"""The whole way beside a server: its recording in, its placement out, and its placement judged; no weights, no model
code.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from craftc.plans.file import read_plan, write_plan
from tests.cli.command_line import MODEL, PLAN, run
from tests.loads.recordings.writers import write_stat, write_trtllm
from tests.plans.sample_plans import toy_plan, uneven_plan

CONFIG = {
    "model_type": "deepseek_v3", "hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 5,
    "n_routed_experts": 16, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "torch_dtype": "bfloat16",
}  # fmt: skip
GPUS = ("--gpus", "4")


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "config.json")


@pytest.fixture
def recording(tmp_path: Path) -> str:
    counts_SLE = np.random.default_rng(0).lognormal(3, 1.2, (6, 5, 16)).astype(np.int64) + 1
    counts_SLE[:, 0] = 0
    return str(write_stat(tmp_path / "expert_distribution_recorder_1.5.pt", counts_SLE))


def test_from_sglangs_recording_to_sglangs_placement_and_back(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, config: str, recording: str
) -> None:
    plan, placement = str(tmp_path / "plan.json"), str(tmp_path / "placement.json")
    shared = ("--loads", recording, "--model-config", config, "--format", "json")
    planned = run(capfd, "plan", *shared, *GPUS, "--budget", "8replicas/gpu", "-o", plan)
    assert planned.code == 0, planned.err
    layers = json.loads(planned.out)["plan"]["layers"]
    assert [layer["name"] for layer in layers] == [f"model.layers.{index}.mlp.experts" for index in range(1, 5)]
    assert {layer["expert_bytes"] for layer in layers} == {3 * 64 * 32 * 2}
    exported = run(capfd, "export", plan, "--to", "sglang", "-o", placement, "--pad", *shared)
    assert exported.code == 0, exported.err
    document = json.loads(exported.out)
    rows = json.loads(Path(placement).read_text())["physical_to_logical_map"]
    slots = 16 + max(layer["replicas"] for layer in layers)
    slots += -slots % 4
    assert (len(rows), {len(row) for row in rows}) == (5, {slots})
    assert document["flags"] == [
        "--ep-size 4",
        f"--ep-num-redundant-experts {slots - 16}",
        f"--init-expert-location {placement}",
        "--ep-dispatch-algorithm dynamic",
    ]
    judged = run(capfd, "evaluate", placement, "--as", "sglang", *GPUS, *shared)
    assert judged.code == 0, judged.err
    assert json.loads(judged.out)["planned"] > json.loads(judged.out)["contiguous"]
    padding = document["padding"]
    assert padding is None or padding["padded_bytes_per_gpu"] > padding["plan_bytes_per_gpu"]


def test_a_uniform_plan_needs_no_padding(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, config: str, recording: str
) -> None:
    plan, placement = str(tmp_path / "plan.json"), str(tmp_path / "lb.yaml")
    planned = run(
        capfd,
        "plan",
        "--loads",
        recording,
        "--model-config",
        config,
        *GPUS,
        "--budget",
        "9replicas/gpu",
        "-o",
        plan,
        "--uniform",
    )
    assert planned.code == 0, planned.err
    assert {layer["replicas"] for layer in json.loads(Path(plan).read_text())["layers"]} == {8}
    exported = run(capfd, "export", plan, "--to", "trtllm", "-o", placement)
    assert exported.code == 0, exported.err
    assert "\n  moe_config: {load_balancer: " in exported.out
    assert Path(placement).read_text().startswith("num_slots: 24\ninitial_global_assignments:\n  1: [")


def test_a_plan_with_counts_per_layer_is_refused_with_both_prices(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_plan(uneven_plan(), tmp_path / "plan.json")
    ran = run(capfd, "export", str(tmp_path / "plan.json"), "--to", "vllm", "-o", str(tmp_path / "map.jsonl"))
    assert ran.code == 1
    assert ran.error_line == (
        "vllm needs the same number of slots on every GPU in all layers; this plan's layers have 5 to 6 slots on "
        "2 GPUs: plan with --uniform, or --pad it "
        "(6 slots in every layer: 1 copy added, replicas take 1.95 KiB per GPU instead of 1.46 KiB)"
    )
    assert not (tmp_path / "map.jsonl").exists()
    ran = run(capfd, "export", str(tmp_path / "plan.json"), "--to", "vllm", "-o", str(tmp_path / "map.jsonl"), "--pad")
    assert ran.code == 0
    assert "padded: 6 slots in every layer: 1 copy added" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "sglong"], "format 'sglong': expected one of sglang, "),
        (["--to", "onnx"], "--to onnx needs --model MODEL"),
        (["--to", "csv", "--model", MODEL], "--to csv takes no --model"),
        (["--to", "csv", "--loads", PLAN], "--loads says what to pad with"),
        (["--to", "csv", "-o", "no/such/folder/x"], "there is no folder no/such/folder"),
        (["--to", "sglang", "--model-config", "no.json"], "no.json: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_requests(capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str) -> None:
    write_plan(toy_plan(), tmp_path / "plan.json")
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "out.json")]
    ran = run(capfd, "export", str(tmp_path / "plan.json"), *arguments, *output)
    assert ran.code == 2
    assert message in ran.error_line


def test_evaluate_says_what_a_placement_needs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, recording: str
) -> None:
    judge = ("evaluate", PLAN, "--loads", recording)
    assert "--as needs --gpus G" in run(capfd, *judge, "--as", "sglang").error_line
    assert "--as needs the experts' size" in run(capfd, *judge, "--as", "sglang", *GPUS).error_line
    assert "go with --as" in run(capfd, *judge, *GPUS).error_line
    ran = run(capfd, *judge, "--as", "sglang", *GPUS, "--expert-bytes", "1MiB")
    assert "sglang placement: " in ran.error_line


def test_convert(capfd: pytest.CaptureFixture[str], tmp_path: Path, config: str) -> None:
    counts = np.random.default_rng(1).integers(1, 50, (2, 3, 4, 16))
    folder = tmp_path / "statistics"
    folder.mkdir()
    write_trtllm(folder, counts, layers=[1, 2, 3, 4])
    output = tmp_path / "loads.npz"
    ran = run(capfd, "convert", str(folder), "-o", str(output), "--model-config", config)
    assert ran.code == 0, ran.err
    assert f"as trtllm: 3 steps x 4 MoE layers (1 to 4) x 16 experts, {counts.sum():,} routed tokens" in ran.out
    with np.load(output) as loads:
        assert loads["counts"].tolist() == counts.sum(axis=0).tolist()
        assert loads["layer_names"][0] == "model.layers.1.mlp.experts"
    ran = run(capfd, "convert", str(folder), "-o", str(tmp_path / "loads.txt"))
    assert "must end in .npz or .safetensors" in ran.error_line


def test_a_placement_becomes_the_plan_it_was_written_from(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, config: str, recording: str
) -> None:
    plan, pattern, again = (str(tmp_path / name) for name in ("plan.json", "pattern.npy", "again.json"))
    planned = run(
        capfd, "plan", "--loads", recording, "--model-config", config, *GPUS, "--budget", "4replicas/gpu", "-o", plan
    )
    assert planned.code == 0, planned.err
    assert run(capfd, "export", plan, "--to", "omni", "-o", pattern).code == 0
    ran = run(capfd, "convert", pattern, "--as", "omni", *GPUS, "--model-config", config, "-o", again)
    assert ran.code == 0, ran.err
    first, second = (read_plan(Path(path)) for path in (plan, again))
    assert second.estimate is None
    for before, after in zip(first.layers, second.layers, strict=True):
        assert tuple(tuple(sorted(gpu)) for gpu in before.placement) == after.placement
        assert (before.name, before.index, before.expert_bytes) == (after.name, after.index, after.expert_bytes)
    assert "--as needs --gpus G" in run(capfd, "convert", pattern, "--as", "omni", "-o", again).error_line
    assert "--gpus goes with --as" in run(capfd, "convert", recording, *GPUS, "-o", again).error_line


def test_replanning_starts_from_a_servers_own_placement(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, config: str, recording: str
) -> None:
    plan, placement, again = (str(tmp_path / name) for name in ("plan.json", "placement.json", "again.json"))
    planning = ("plan", "--loads", recording, "--model-config", config, *GPUS, "--budget", "4replicas/gpu")
    assert run(capfd, *planning, "--uniform", "-o", plan).code == 0
    assert run(capfd, "export", plan, "--to", "sglang", "-o", placement).code == 0
    ran = run(capfd, *planning, "--from", placement, "--as", "sglang", "--max-move", "0B", "-o", again)
    assert ran.code == 0, ran.err
    first, second = (read_plan(Path(path)) for path in (plan, again))
    assert [layer.placement for layer in second.layers] == [layer.placement for layer in first.layers]
    assert "--as goes with --from PLACEMENT" in run(capfd, *planning, "--as", "sglang", "-o", again).error_line


@pytest.mark.parametrize(
    ("options", "told"), [((), False), (("--nodes", "2"), True), (("--nodes", "2", "--groups", "4"), False)]
)
def test_a_routers_groups_are_told_where_nodes_could_keep_them(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, recording: str, options: tuple[str, ...], told: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "n_group": 4, "topk_group": 2}))
    planning = ("plan", "--loads", recording, "--model-config", str(tmp_path / "config.json"), *GPUS, *options)
    ran = run(capfd, *planning, "--budget", "1replicas/gpu", "-o", str(tmp_path / "plan.json"))
    assert ran.code == 0, ran.err
    assert ("4 expert groups; --groups 4 keeps each of them on one node" in ran.err) == told
