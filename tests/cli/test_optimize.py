import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from craftc.errors import VerificationFailed
from craftc.loads.read_loads import read_loads
from craftc.passes.compilation import Compilation
from craftc.passes.rewriting.verify_rewrite import VerifyRewrite
from craftc.plans.file import read_plan
from tests.cli.command_line import LOADS, MODEL, Ran, run, write_config
from tests.places import ROOT

FILES = {"plan.json", "loads.safetensors", "report.txt", "model.json", "weights/shared.safetensors"} | {
    f"weights/gpu-0000{gpu}.safetensors" for gpu in range(4)
}


def optimize(capfd: pytest.CaptureFixture[str], *more: str, model: str = MODEL) -> Ran:
    return run(capfd, "optimize", model, "--gpus", "4", "--nodes", "2", "--budget", "25%", *more)


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_writes_everything_and_ends_with_table_and_files(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = optimize(capfd, "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    assert set(files(tmp_path / "out")) == FILES
    plan = read_plan(tmp_path / "out" / "plan.json")
    loads = read_loads(tmp_path / "out" / "loads.safetensors")
    assert plan.provenance.loads == f"sha256:{loads.sha256}"
    assert loads.sha256 == read_loads(Path(LOADS)).sha256
    assert ran.out.startswith("outputs, float32: max abs difference 0, allowed ")
    assert "\n\non the plan's own loads" in ran.out
    assert "craftc: this plan" in ran.out
    assert "weights/shared.safetensors  " in ran.out.splitlines()[-1]
    assert f"  {tmp_path}/out/plan.json" in ran.out
    assert "profile_loads" in ran.err
    for gpu in range(4):
        with safe_open(tmp_path / "out" / "weights" / f"gpu-0000{gpu}.safetensors", framework="pt") as file:
            assert file.get_slice("layers.0.experts.weight").get_shape()[0] == len(plan.layers[0].placement[gpu])


def test_same_inputs_same_bytes_also_over_an_old_folder(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    optimize(capfd, "--out", str(tmp_path / "a"))
    first = files(tmp_path / "a")
    optimize(capfd, "--out", str(tmp_path / "a"))
    assert files(tmp_path / "a") == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_json_is_one_document(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    ran = optimize(capfd, "--out", str(tmp_path / "out"), "--format", "json", "--loads", LOADS)
    document = json.loads(ran.out)
    assert document["plan"] == json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {Path(file).relative_to(tmp_path / "out").as_posix() for file in document["files"]} == FILES
    assert "profile_loads" not in ran.err


@pytest.mark.parametrize(
    ("stop_after", "shown", "unknown"),
    [
        ("find_moe_layers", "layers.1.experts", ("loads", "curves", "plan")),
        ("profile_loads", "routed tokens", ("curves", "plan")),
        ("estimate_benefit", "balancedness by replicas", ("replicas", "plan")),
        ("allocate_replicas", "replicas per layer", ("plan",)),
        ("place_replicas", "this plan", ("verification",)),
    ],
)
def test_stops_after_any_pass(capfd: pytest.CaptureFixture[str], stop_after: str, shown: str, unknown: tuple[str, ...]):
    ran = optimize(capfd, "--stop-after", stop_after)
    assert ran.code == 0, ran.err
    assert shown in ran.out
    assert "\n\nrequest(gpus=" in ran.out
    assert "passes:\n  trace()\n  find_moe_layers()\n" in ran.out, "the pipeline prints itself"
    document = json.loads(optimize(capfd, "--stop-after", stop_after, "--format", "json").out)
    assert all(document[name] is None for name in unknown)


def test_wrong_options(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    assert "give --out DIR" in optimize(capfd).error_line
    assert "give --out DIR" in optimize(capfd, "--out", str(tmp_path / "x"), "--stop-after", "trace").error_line
    ran = optimize(capfd, "--stop-after", "lunch", model="no_such_model.py")
    assert "no pass 'lunch' in the pipeline: trace" in ran.error_line, "told before the model is loaded"
    (tmp_path / "thesis.txt").write_text("")
    ran = optimize(capfd, "--out", str(tmp_path))
    assert ran.code == 2
    assert "files that craftc did not write, such as thesis.txt" in ran.error_line
    assert "load model" not in ran.err


def test_nothing_is_written_when_verification_fails(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def differ(self: VerifyRewrite, compilation: Compilation) -> Compilation:
        raise VerificationFailed("rewritten model differs")

    monkeypatch.setattr(VerifyRewrite, "run", differ)
    ran = optimize(capfd, "--out", str(tmp_path / "out"))
    assert ran.code == 1
    assert ran.error_line == "rewritten model differs"
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_weights_can_be_planned_but_not_optimized(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    write_config(tmp_path / "config.json")
    ran = optimize(capfd, "--out", str(tmp_path / "out"), model=str(tmp_path / "config.json"))
    assert ran.code == 2
    assert "meta device" in ran.error_line
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from craftc.deployment import weights
from craftc.cli import main
real = weights.write_tensors
def dying(path, tensors, metadata):
    real(path, tensors, metadata)
    if path.name == "gpu-00002.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
weights.write_tensors = dying
main(sys.argv[1:])
"""


def test_a_kill_while_writing_leaves_the_old_output_intact(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "out"
    optimize(capfd, "--out", str(out))
    old = files(out)
    command = ["optimize", MODEL, "--gpus", "4", "--budget", "50%", "--out", str(out)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    assert files(out) == old
    assert len(list(tmp_path.iterdir())) == 2, "the killed run left its unfinished folder"
    optimize(capfd, "--out", str(out))
    assert files(out) == old
    assert list(tmp_path.iterdir()) == [out], "the next run cleaned up"
