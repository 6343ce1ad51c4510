import json
from pathlib import Path

import pytest

from tests.cli.command_line import GOLDEN, MODEL, check_golden, run, write_config


def test_text(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "inspect", MODEL)
    assert ran.code == 0
    check_golden("inspect.txt", ran.out)


def test_json(capfd: pytest.CaptureFixture[str]):
    ran = run(capfd, "inspect", MODEL, "--format", "json")
    check_golden("inspect.json", ran.out)
    assert json.loads(ran.out)["layers"][1]["name"] == "layers.1.experts"


def test_graph(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = run(capfd, "inspect", MODEL, "--graph", str(tmp_path / "graph.svg"))
    assert ran.code == 0
    assert "<svg" in (tmp_path / "graph.svg").read_text()


def test_a_config_alone_is_enough(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    write_config(tmp_path / "config.json")
    ran = run(capfd, "inspect", str(tmp_path / "config.json"), "--format", "json")
    assert ran.code == 0, ran.err
    assert [layer["experts"] for layer in json.loads(ran.out)["layers"]] == [4, 4, 4]


NEAR_MISS = """
import torch
from torch import nn

class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_experts, self.w = 4, nn.Parameter(torch.ones(4, 2, 2))

    def forward(self, x):
        return x @ self.w[0]

def build_model():
    return nn.Sequential(Experts(), Experts())

def example_inputs():
    return {"input": torch.ones(1, 2)}
"""


@pytest.mark.parametrize("format", ["text", "json"])
def test_every_near_miss_of_a_model_without_moe_layers_is_reported(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, format: str
):
    (tmp_path / "near.py").write_text(NEAR_MISS)
    ran = run(capfd, "inspect", str(tmp_path / "near.py"), "--format", format, "--graph", str(tmp_path / "graph.svg"))
    assert ran.code == 1
    assert (tmp_path / "graph.svg").exists()
    if format == "json":
        document = json.loads(ran.out)
        assert document["layers"] == []
        assert [miss["name"] for miss in document["near_misses"]] == ["0", "1"]
    else:
        assert "near: no MoE layer" in ran.out
        assert ran.out.count("forward takes 1 argument(s) (x), the experts ABI needs 3") == 2
    refused = run(capfd, "profile", str(tmp_path / "near.py"), "-o", str(tmp_path / "loads.npz"))
    assert refused.code == 2
    assert "no MoE layer that craftc can handle; 2 near misses" in refused.error_line


BAD_MODELS = {
    "no_build.py": ("x = 1", "no build_model()"),
    "raises.py": (
        "def build_model():\n    raise RuntimeError('no\\nGPU')",
        "build_model() failed: RuntimeError: no GPU",
    ),
    "not_python.py": ("def (", "SyntaxError"),
    "no_import.py": ("import nonexistent_module", "nonexistent_module"),
    "not_a_model.py": ("def build_model():\n    return 3\ndef example_inputs():\n    return {}", "must return a"),
    "no_inputs.py": ("import torch\ndef build_model():\n    return torch.nn.Linear(2, 2)", "no example_inputs()"),
    "no_moe.py": (
        "import torch\ndef build_model():\n    return torch.nn.Linear(2, 2)\n"
        "def example_inputs():\n    return {'input': torch.ones(1, 2)}",
        "no MoE layer",
    ),
    "config.json": ("{", "config.json"),
    "weights.bin": ("", "not a kind of model file"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_one_line_and_exit_2(capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str):
    text, message = BAD_MODELS[name]
    (tmp_path / name).write_text(text)
    ran = run(capfd, "inspect", str(tmp_path / name))
    assert ran.code == 2
    assert message in ran.error_line


def test_no_such_model(capfd: pytest.CaptureFixture[str]):
    assert "no such file" in run(capfd, "inspect", "none.py").error_line
    assert "no other_factory()" in run(capfd, "inspect", f"{GOLDEN}/model.py:other_factory").error_line
