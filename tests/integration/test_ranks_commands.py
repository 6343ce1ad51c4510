"""A user's whole way on real ranks: optimize the trained example, run it under torchrun, verify it, profile it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from craftc.cli import main as craftc
from examples.tiny_moe import model as tiny_moe
from tests.places import ROOT

TINY = str(Path(tiny_moe.__file__))
PLAIN = str(ROOT / "examples" / "plain_moe" / "model.py")
RANKS = 2
LIMIT_S = 150


@pytest.fixture(scope="module")
def optimized(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("optimized") / "tiny"
    assert craftc(["optimize", TINY, "--gpus", str(RANKS), "--budget", "25%", "--out", str(out)]) == 0
    return out


def test_run_gives_the_original_models_outputs(optimized, tmp_path):
    inputs, outputs = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    batch = next(tiny_moe.calibration_inputs())
    batch = {name: tensor[:7, :40].contiguous() for name, tensor in batch.items()}  # 7 rows on 2 ranks: 4 and 3
    save_file(batch, inputs)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m", "craftc.run"]
    run = subprocess.run(
        [sys.executable, *command, str(optimized), "--inputs", str(inputs), "--out", str(outputs)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        expected = tiny_moe.build_model()(**batch).logits
    got = load_file(outputs)["output"]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_verify_compares_outputs_and_tokens_on_ranks(optimized, capsys):
    assert craftc(["verify", TINY, str(optimized / "plan.json"), "--ranks", str(RANKS), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["equal"]
    assert set(document["max_abs_difference"]) == {
        "float32",
        "float32, GPU by GPU",
        "bfloat16",
        "bfloat16, GPU by GPU",
    }
    assert 0 < document["max_token_deviation"] < 0.01


def test_verify_refuses_another_number_of_ranks(optimized, capsys):
    assert craftc(["verify", TINY, str(optimized / "plan.json"), "--ranks", "3"]) == 2
    assert "is for 2 GPUs, not for 3 ranks: give --ranks 2" in capsys.readouterr().err


def test_profile_on_ranks_is_the_profile_of_one_process(tmp_path):
    counts = []
    for ranks in ([], ["--ranks", "2"]):
        loads = tmp_path / f"loads{len(ranks)}.npz"
        assert craftc(["profile", PLAIN, "-o", str(loads), "--steps", "5", *ranks]) == 0
        counts.append(np.load(loads)["counts"])
    np.testing.assert_array_equal(*counts)
    assert counts[0].shape[0] == 5
