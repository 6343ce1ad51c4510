"""Run the command line in this process, and compare what it prints with golden files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from craftc.cli import main
from tests.places import ROOT

GOLDEN = ROOT / "tests" / "golden"
MODEL = str(GOLDEN / "model.py")
PLAN = str(GOLDEN / "plan.json")
LOADS = str(GOLDEN / "loads.npz")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The error, after checking that it is one line, the last on stderr, and nothing is on stdout."""
        *progress, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert not any(line.startswith(("error: ", "Traceback")) for line in progress), self.err
        assert self.out == ""
        return last.removeprefix("error: ")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """`craftc ARGUMENTS` in this process."""
    capfd.readouterr()
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return Ran(code, out, err)


def write_config(path: Path) -> None:
    """A Hugging Face config of a small Mixtral: three layers of four experts."""
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 64,
    }
    path.write_text(json.dumps(config))


def check_golden(name: str, text: str) -> None:
    """Compare with tests/golden/NAME; CRAFTC_UPDATE_GOLDEN=1 writes it instead."""
    path = GOLDEN / name
    normal = _normal(text)
    if os.environ.get("CRAFTC_UPDATE_GOLDEN") == "1":
        path.write_text(normal)
    assert normal == path.read_text(), f"renew with CRAFTC_UPDATE_GOLDEN=1 after reading the difference: {path}"


def _normal(text: str) -> str:
    """Without what differs between machines: folders, and differences at the edge of floating point."""
    text = text.replace(f"{GOLDEN}/", "")
    text = re.sub(r"max abs difference [-+.e0-9]+, allowed [-+.e0-9]+", "max abs difference D, allowed T", text)
    return re.sub(r"(\"[^\"]*(?:float32|bfloat16)[^\"]*\"): [-+.e0-9]+", r"\1: D", text)
