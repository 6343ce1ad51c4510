"""Broken bytes: whatever a file holds, a reader answers with loads, a placement, or one line. No crash, no hang, no
memory blow-up.
"""

from __future__ import annotations

import pickle
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from craftc.errors import CraftcError
from craftc.loads.file import write_loads
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.manifests.format import ExportSource, target_of_plan
from craftc.manifests.registry import placement_format, placement_names
from tests.loads.recordings.writers import (
    COUNTS_SLE,
    MAP_LP,
    physical_counts,
    vllm_lines,
    with_dense_layer,
    write_omni,
    write_passes,
    write_stat,
    write_trtllm,
)
from tests.plans.sample_plans import toy_plan

MUTATIONS = 120
INTERESTING = [
    b"\x00",
    b"\xff",
    b"-1",
    b"9" * 20,
    b"1e999",
    b"NaN",
    b"[" * 5000,
    b"]" * 9,
    b"{",
    b'"',
    b"\xc3\x28",
    b"\n",
    b",,",
    b"&a *a",
]


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """`data` with bytes flipped, cut out, doubled, swapped, truncated, or strange pieces put in."""
    rng = random.Random(seed)
    for _ in range(MUTATIONS):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            start = rng.randrange(len(changed) or 1)
            stop = min(len(changed), start + rng.choice([1, 2, 8, 64]))
            kind = rng.randrange(6)
            if kind == 0:
                changed[start:stop] = bytes(byte ^ (1 << rng.randrange(8)) for byte in changed[start:stop])
            elif kind == 1:
                del changed[start:stop]
            elif kind == 2:
                changed[start:start] = changed[start:stop]
            elif kind == 3:
                changed[start:start] = rng.choice(INTERESTING)
            elif kind == 4:
                changed[start:stop] = rng.randbytes(stop - start)
            else:
                del changed[rng.randrange(len(changed) or 1) :]
        yield bytes(changed)


def answer(error: CraftcError) -> str:
    """`refused` where the error is one line that fits on a screen, whatever the file held."""
    return "refused" if "\n" not in str(error) and len(str(error)) < 600 else "several lines"


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Fails a test that needs half a gigabyte more than there was before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


@pytest.mark.parametrize("name", [name for name in placement_names() if name != "onnx"])
def test_broken_placements(name: str) -> None:
    plan = toy_plan()
    fmt, target = placement_format(name), target_of_plan(plan)
    data = fmt.encode(ExportSource(plan, target))
    outcomes = []
    for changed in mutations(data, seed=100):
        try:
            placements = fmt.decode(changed, target)
        except CraftcError as error:
            outcomes.append(answer(error))
        else:
            assert all(set().union(*placement) == {0, 1, 2, 3} for placement in placements)
            outcomes.append("read")
    assert "refused" in outcomes
    assert "several lines" not in outcomes


def recording(kind: str, folder: Path) -> tuple[Path, Path]:
    """A good recording, and the file of it that is to be broken."""
    dense_SLE = with_dense_layer(COUNTS_SLE)
    file = folder / "recording"
    if kind == "stat":
        return (write_stat(file, dense_SLE), file)
    if kind == "passes":
        write_passes(folder, physical_counts(dense_SLE, MAP_LP, 2), MAP_LP)
        return folder, min(folder.iterdir())
    if kind == "trtllm":
        return write_trtllm(folder, COUNTS_SLE[None], [3, 4]), folder / "rank0.safetensors"
    if kind == "trtllm meta":
        return write_trtllm(folder, COUNTS_SLE[None], [3, 4]), folder / "meta_info.json"
    if kind == "omni":
        return write_omni(folder, COUNTS_SLE, 2), folder / "activation_counts_recordstep_8_rank_1.txt"
    if kind == "vllm":
        file.write_text("\n".join(vllm_lines(physical_counts(COUNTS_SLE, MAP_LP[1:], 1)[0], MAP_LP[1:], 2)))
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(torch.from_numpy(dense_SLE), protocol=2))
    elif kind == "torch":
        torch.save(torch.from_numpy(dense_SLE), file)
    elif kind == "csv":
        file.write_text("step,layer,expert,tokens\n" + "".join(f"0,{layer},0,9\n" for layer in range(5)))
    else:
        named = folder / f"loads.{kind}"
        write_loads(LoadProfile.from_counts(COUNTS_SLE), named)
        return named, named
    return file, file


KINDS = ["stat", "passes", "trtllm", "trtllm meta", "omni", "vllm", "pickle", "torch", "csv", "npz", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_recordings(kind: str, tmp_path: Path) -> None:
    path, file = recording(kind, tmp_path)
    good = read_loads(path)
    outcomes = []
    for changed in mutations(file.read_bytes(), seed=100):
        file.write_bytes(changed)
        try:
            loads = read_loads(path)
        except CraftcError as error:
            outcomes.append(answer(error))
        else:
            assert loads.counts_SLE.ndim == good.counts_SLE.ndim
            outcomes.append("read")
    assert "refused" in outcomes
    assert "several lines" not in outcomes
