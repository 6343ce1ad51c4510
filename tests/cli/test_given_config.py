"""Multi-token-prediction layers: said when they are left out, kept with --mtp, noted on export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from craftc.loads.read_loads import read_loads
from tests.cli.command_line import run

CONFIG = {
    "model_type": "deepseek_v3", "num_hidden_layers": 4, "first_k_dense_replace": 1, "n_routed_experts": 16,
    "num_experts_per_tok": 4, "moe_intermediate_size": 64, "hidden_size": 128, "num_nextn_predict_layers": 1,
    "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[str, str]:
    """TensorRT-LLM's statistics of decoder layers 1..3 and of layer 4, which is for multi-token prediction; the
    config.
    """
    generator = np.random.default_rng(0)
    (tmp_path / "stat").mkdir()
    (tmp_path / "stat" / "meta_info.json").write_text(json.dumps({"num_experts": 16, "num_experts_per_token": 4}))
    for rank in range(2):
        tensors = {
            f"{step}_{layer}": generator.multinomial(512, generator.dirichlet(np.full(16, 0.6)))
            for step in range(4)
            for layer in (1, 2, 3, 4)
        }
        save_file(tensors, tmp_path / "stat" / f"rank{rank}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "stat"), str(tmp_path / "config.json")


def test_convert_says_what_it_drops_and_keeps_it_on_request(capfd, tmp_path, recorded) -> None:
    stat, config = recorded
    loads = str(tmp_path / "loads.npz")
    ran = run(capfd, "convert", stat, "--model-config", config, "-o", loads)
    assert "layer 4 after the last decoder layer (multi-token prediction) left out" in ran.err
    assert read_loads(Path(loads)).layer_indices == (1, 2, 3)
    ran = run(capfd, "convert", stat, "--model-config", config, "--mtp", "-o", loads)
    assert "multi-token" not in ran.err
    assert read_loads(Path(loads)).layer_indices == (1, 2, 3, 4)


def test_a_plan_without_it_is_noted_on_export_and_a_plan_with_it_is_written(capfd, tmp_path, recorded) -> None:
    stat, config = recorded
    plan, placement = str(tmp_path / "plan.json"), tmp_path / "placement.yaml"
    asked = ["plan", "--loads", stat, "--model-config", config, "--gpus", "2", "--budget", "2replicas/gpu", "-o", plan]
    exported = ["export", plan, "--to", "trtllm", "--pad", "--model-config", config, "-o", str(placement)]
    ran = run(capfd, *asked, "--format", "json")
    assert [line for line in json.loads(ran.out)["warnings"] if "multi-token prediction" in line]
    ran = run(capfd, *exported)
    assert "note: multi-token prediction (from layer 4 on) is not in the plan" in ran.out
    assert list(yaml.safe_load(placement.read_text())["initial_global_assignments"]) == [1, 2, 3]
    assert run(capfd, *asked, "--mtp").code == 0
    ran = run(capfd, *exported)
    assert "multi-token" not in ran.out
    assert list(yaml.safe_load(placement.read_text())["initial_global_assignments"]) == [1, 2, 3, 4]


def test_a_server_with_a_row_for_each_decoder_layer_cannot_take_it(capfd, tmp_path, recorded) -> None:
    stat, config = recorded
    plan = str(tmp_path / "plan.json")
    run(capfd, "plan", "--loads", stat, "--model-config", config, "--mtp", "--gpus", "2", "--budget", "0B", "-o", plan)
    ran = run(capfd, "export", plan, "--to", "sglang", "--model-config", config, "-o", str(tmp_path / "p.json"))
    assert ran.code == 2
    assert "no row for it (a multi-token-prediction layer?)" in ran.error_line


def test_mtp_needs_a_config(capfd, tmp_path, recorded) -> None:
    ran = run(capfd, "convert", recorded[0], "--mtp", "-o", str(tmp_path / "loads.npz"))
    assert (ran.code, "--mtp goes with --model-config" in ran.error_line) == (2, True)
