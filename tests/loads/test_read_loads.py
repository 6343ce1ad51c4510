"""Recordings of every system, told apart by content and read as the loads that were recorded."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from craftc.errors import BadInput
from craftc.loads.file import write_loads
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import detect_loads, read_loads
from craftc.loads.registry import load_names
from tests.loads.recordings.writers import (
    COUNTS_SLE,
    MAP_LP,
    physical_counts,
    vllm_lines,
    with_dense_layer,
    write_omni,
    write_passes,
    write_stat,
    write_tokens,
    write_trtllm,
)


def check(path: Path, name: str, indices: tuple[int, ...], counts_SLE: np.ndarray = COUNTS_SLE) -> LoadProfile:
    """The recording at `path` is recognised as `name` and holds the counts."""
    assert detect_loads(path) == name
    loads = read_loads(path)
    assert loads.counts_SLE.tolist() == counts_SLE.tolist()
    assert loads.layer_indices == indices
    assert read_loads(path, name).sha256 == loads.sha256
    return loads


def test_sglang_stat(tmp_path: Path) -> None:
    path = write_stat(tmp_path / "expert_distribution_recorder_17000.5.pt", with_dense_layer(COUNTS_SLE))
    check(path, "sglang", (1, 2))
    check(tmp_path, "sglang", (1, 2))


def test_sglang_stat_of_one_step_without_the_step_axis(tmp_path: Path) -> None:
    path = tmp_path / "dump.pt"
    torch.save({"logical_count": torch.from_numpy(with_dense_layer(COUNTS_SLE)[0])}, path)
    check(path, "sglang", (1, 2), COUNTS_SLE[:1])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("write", [write_passes, write_tokens])
def test_sglang_passes_of_all_ranks_are_added_and_folded(tmp_path: Path, ranks: int, write) -> None:
    counts = physical_counts(with_dense_layer(COUNTS_SLE), MAP_LP, ranks)
    check(write(tmp_path, counts, MAP_LP), "sglang", (1, 2))


def test_sglang_one_file_of_the_only_rank(tmp_path: Path) -> None:
    write_passes(tmp_path, physical_counts(with_dense_layer(COUNTS_SLE), MAP_LP, 1), MAP_LP)
    check(next(tmp_path.iterdir()), "sglang", (1, 2))


def test_sglang_idle_passes_are_dropped(tmp_path: Path) -> None:
    counts = physical_counts(with_dense_layer(COUNTS_SLE), MAP_LP, 2)
    idle = np.zeros_like(counts[:, :1])
    check(write_passes(tmp_path, np.concatenate([idle, counts, idle], axis=1), MAP_LP), "sglang", (1, 2))


@pytest.mark.parametrize("ranks", [1, 2])
def test_trtllm(tmp_path: Path, ranks: int) -> None:
    halves = np.stack([COUNTS_SLE // ranks] * (ranks - 1) + [COUNTS_SLE - COUNTS_SLE // ranks * (ranks - 1)])
    loads = check(write_trtllm(tmp_path, halves, layers=[3, 4]), "trtllm", (3, 4))
    assert loads.top_k == (2, 2)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_omni(tmp_path: Path, ranks: int) -> None:
    check(write_omni(tmp_path, COUNTS_SLE, ranks), "omni", (0, 1))


@pytest.mark.parametrize("spaces", [True, False])
def test_vllm(tmp_path: Path, spaces: bool) -> None:
    path = tmp_path / "stats.jsonl"
    counts = physical_counts(COUNTS_SLE, MAP_LP[1:], 1)[0]
    text = "\n".join(vllm_lines(counts, MAP_LP[1:], redundant=2))
    path.write_text(text if spaces else text.replace(" ", ""))
    check(path, "vllm", (0, 1))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_craft_pickle(tmp_path: Path, protocol: int, dtype: torch.dtype) -> None:
    path = tmp_path / "loads.pkl"
    path.write_bytes(pickle.dumps(torch.from_numpy(with_dense_layer(COUNTS_SLE)).to(dtype), protocol=protocol))
    check(path, "craft", (1, 2))


def test_craft_torch_file(tmp_path: Path) -> None:
    path = tmp_path / "loads.pt"
    torch.save(torch.from_numpy(with_dense_layer(COUNTS_SLE)), path)
    check(path, "craft", (1, 2))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_own_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"loads{suffix}"
    write_loads(LoadProfile.from_counts(COUNTS_SLE, layer_indices=(1, 2)), path)
    check(path, suffix[1:], (1, 2))


def test_csv_of_cells_may_leave_out_zeros_and_order(tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    cells = [
        f"{step * 5},{layer + 1},{expert},{tokens}"
        for (step, layer, expert), tokens in np.ndenumerate(COUNTS_SLE)
        if tokens
    ]
    path.write_text("\n".join(["step,layer,expert,tokens", *reversed(cells)]))
    check(path, "csv", (1, 2))


@pytest.mark.parametrize("text", ["{}\n", "{}", "{}\n\n", " {}\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_quick_and_careful_reading_agree(tmp_path: Path, text: str, end: str) -> None:
    lines = [f"{step},{layer},{step + 1},{layer + 7},0" for step in (3, 9) for layer in (1, 4)]
    path = tmp_path / "loads.csv"
    path.write_bytes(("step,layer,0,1,2" + end + text.format(end.join(lines))).encode())
    loads = read_loads(path)
    assert loads.layer_indices == (1, 4)
    assert loads.counts_SLE.tolist() == [[[4, 8, 0], [4, 11, 0]], [[10, 8, 0], [10, 11, 0]]]


def test_csv_of_rows_with_a_dense_layer(tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    rows = [
        ",".join(map(str, [step, layer, *row_E]))
        for step, counts_LE in enumerate(with_dense_layer(COUNTS_SLE).tolist())
        for layer, row_E in enumerate(counts_LE)
    ]
    path.write_text("\n".join(["step,layer,0,1,2,3", *rows]) + "\n")
    check(path, "csv", (1, 2))


def test_what_is_nothing_known_is_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(BadInput, match="not a recording of expert loads in any known format"):
        read_loads(path)
    with pytest.raises(BadInput, match=r"nothing\.npz: cannot be read"):
        read_loads(tmp_path / "nothing.npz")
    with pytest.raises(BadInput, match="format 'sglong': expected one of npz, "):
        read_loads(path, "sglong")
    with pytest.raises(BadInput, match="is a folder; not a recording"):
        read_loads(tmp_path)


@pytest.mark.parametrize(("data", "message"), [(b"", "is empty"), (b"\x93NUMPY", r"is a bare \.npy array: save")])
def test_what_comes_close_is_told_how_to_be_one(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "loads").write_bytes(data)
    with pytest.raises(BadInput, match=message):
        read_loads(tmp_path / "loads")
    assert load_names()[0] == "npz"
