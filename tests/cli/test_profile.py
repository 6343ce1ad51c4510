import json
from pathlib import Path

import numpy as np
import pytest

from craftc.loads.read_loads import read_loads
from tests.cli.command_line import LOADS, MODEL, check_golden, run


def test_text_and_file(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = run(capfd, "profile", MODEL, "-o", str(tmp_path / "loads.npz"))
    assert ran.code == 0
    check_golden("profile.txt", ran.out.replace(f"{tmp_path}/", ""))
    assert np.array_equal(read_loads(tmp_path / "loads.npz").counts_SLE, read_loads(Path(LOADS)).counts_SLE)


def test_json_and_fewer_steps(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    output = tmp_path / "loads.safetensors"
    ran = run(capfd, "profile", MODEL, "-o", str(output), "--steps", "1", "--format", "json")
    document = json.loads(ran.out)
    assert document["loads"]["steps"] == 1
    assert document["loads"]["sha256"] == read_loads(output).sha256
    assert document["files"] == [str(output)]


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("loads.csv", [], "must end in .npz or .safetensors"),
        ("none/loads.npz", [], "there is no folder"),
        ("loads.npz", ["--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_bad_options(capfd: pytest.CaptureFixture[str], tmp_path: Path, output: str, more: list[str], message: str):
    ran = run(capfd, "profile", MODEL, "-o", str(tmp_path / output), *more)
    assert ran.code == 2
    assert message in ran.error_line
    assert list(tmp_path.iterdir()) == []
