"""Models whose layers have different numbers of experts, all the way: Python API and commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import craftc
from craftc.loads.read_loads import read_loads
from craftc.plans.file import read_plan
from tests.cli.command_line import run

MODEL = """
from tests.integration.test_layers_that_differ import Model, batches
def build_model(): return Model((4, 6, 3, 6)).eval()
def example_inputs(): return batches()[0]
def calibration_inputs(): return iter(batches())
"""


class Block(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(16, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(experts)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weights, indices = self.gate(hidden).softmax(-1).topk(2, -1)
        out = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(indices == number)
            out.index_add_(0, token, expert(hidden[token]) * weights[token, place, None])
        return out


class Model(nn.Module):
    def __init__(self, experts_L: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList(Block(experts) for experts in experts_L)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = functional.layer_norm(self.embedding(ids).view(-1, 16), (16,))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


def batches() -> list[dict[str, torch.Tensor]]:
    chosen = torch.Generator().manual_seed(1)
    return [{"ids": torch.randint(50, (2, 12), generator=chosen)} for _ in range(6)]


@pytest.mark.parametrize("experts_L", [(4, 6), (4, 6, 4, 3, 6), (8, 2, 5)])
@pytest.mark.parametrize("gpus", [2, 3])
def test_a_rewritten_model_computes_what_the_original_computes(experts_L: tuple[int, ...], gpus: int):
    model = Model(experts_L).eval()
    done = craftc.optimize(model, batches()[0], craftc.Topology(gpus), "2replicas/gpu", calibration_inputs=batches())
    assert done.loads.experts_L == experts_L
    assert [layer.experts for layer in done.plan.layers] == list(experts_L)
    assert 0 < done.plan.replicas <= 2 * gpus
    for batch in batches():
        torch.testing.assert_close(done.model(**batch), model(**batch))
    evaluated = craftc.evaluate(done.plan, done.loads)
    assert done.plan.estimate is not None
    assert evaluated.planned == pytest.approx(done.plan.estimate.balancedness)
    assert evaluated.planned <= evaluated.bound


def test_every_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file, loads, plan = tmp_path / "model.py", tmp_path / "loads.npz", tmp_path / "plan.json"
    file.write_text(MODEL)
    assert "4 layers, 3 to 6 experts" in run(capfd, "profile", str(file), "-o", str(loads)).out
    assert read_loads(loads).layer_experts == (4, 6, 3, 6)
    run_ok(capfd, "plan", str(file), "--loads", str(loads), "--gpus", "2", "--budget", "2replicas/gpu", "-o", str(plan))
    assert [layer.experts for layer in read_plan(plan).layers] == [4, 6, 3, 6]
    run_ok(capfd, "show", str(plan))
    run_ok(capfd, "evaluate", str(plan), "--loads", str(loads))
    run_ok(capfd, "verify", str(file), str(plan))
    run_ok(capfd, "export", str(plan), "--to", "csv", "-o", str(tmp_path / "plan.csv"))
    found = run_ok(capfd, "inspect", str(file), "--format", "json")
    assert [layer["experts"] for layer in json.loads(found)["layers"]] == [4, 6, 3, 6]
    refused = run(capfd, "export", str(plan), "--to", "vllm", "--pad", "-o", str(tmp_path / "vllm.json"))
    assert refused.code != 0
    assert "layers have 3 to 6 experts (blocks.2.experts, blocks.1.experts)" in refused.error_line


def test_recordings_that_do_not_say_how_many_experts_layers_have_are_refused():
    loads = craftc.profile(Model((4, 6)).eval(), batches()[0])
    silent = craftc.LoadProfile.from_counts(loads.counts_SLE, layer_names=loads.layer_names)
    layers = craftc.inspect(Model((4, 6)).eval(), batches()[0]).layers
    with pytest.raises(craftc.BadInput, match="add an array named experts to the file"):
        craftc.plan(silent, craftc.Topology(2), "0B", layers=layers)


def run_ok(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    done = run(capfd, *arguments)
    assert done.code == 0, done.err
    return done.out
