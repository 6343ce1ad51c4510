"""Wrong and partial recordings: each gets its one line, and nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from craftc.errors import BadInput
from craftc.loads.read_loads import read_loads
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

DENSE_SLE = with_dense_layer(COUNTS_SLE)


def refused(path: Path, message: str, name: str | None = None) -> None:
    with pytest.raises(BadInput, match=message) as error:
        read_loads(path, name)
    assert "\n" not in str(error.value)


def sglang_folder(folder: Path, ranks: int = 3) -> list[Path]:
    write_passes(folder, physical_counts(DENSE_SLE, MAP_LP, ranks), MAP_LP)
    return sorted(folder.iterdir())


def edit(path: Path, change: Callable[[dict], object]) -> None:
    dump = torch.load(path, weights_only=True)
    change(dump)
    torch.save(dump, path)


def test_sglang_missing_rank(tmp_path: Path) -> None:
    sglang_folder(tmp_path)[1].unlink()
    refused(tmp_path, "1 of 3 ranks are missing, the first is rank 1")


def test_sglang_rank_alone_beside_others(tmp_path: Path) -> None:
    refused(sglang_folder(tmp_path)[1], "rank 1 of 3 ranks recorded; give the folder")


def test_sglang_last_rank_alone(tmp_path: Path) -> None:
    files = sglang_folder(tmp_path)
    for file in files[:-1]:
        file.unlink()
    refused(files[-1], "2 of 3 ranks are missing")


def test_sglang_two_recordings_in_a_folder(tmp_path: Path) -> None:
    files = sglang_folder(tmp_path)
    (tmp_path / "expert_distribution_recorder_99999.1_0.pt").write_bytes(files[0].read_bytes())
    refused(tmp_path, "several files of rank 0")


def test_sglang_two_stat_dumps(tmp_path: Path) -> None:
    write_stat(tmp_path / "expert_distribution_recorder_1.5.pt", DENSE_SLE)
    write_stat(tmp_path / "expert_distribution_recorder_2.5.pt", DENSE_SLE)
    refused(tmp_path, "2 dumps in this folder")


def test_sglang_pass_missing_in_one_rank(tmp_path: Path) -> None:
    edit(sglang_folder(tmp_path)[1], lambda dump: dump["records"].pop(1))
    refused(tmp_path, "forward pass 41 is in the file of only one of the ranks 0 and 1")


def test_sglang_pass_twice(tmp_path: Path) -> None:
    edit(sglang_folder(tmp_path)[0], lambda dump: dump["records"].append(dump["records"][0]))
    refused(tmp_path, "forward pass 40 is recorded twice")


def test_sglang_other_map(tmp_path: Path) -> None:
    edit(
        sglang_folder(tmp_path)[2],
        lambda dump: dump.update(last_physical_to_logical_map=torch.from_numpy(MAP_LP[:, ::-1].copy())),
    )
    refused(tmp_path, "ranks 0 and 2 were recorded under different expert maps")


def test_sglang_map_without_an_expert(tmp_path: Path) -> None:
    broken = torch.from_numpy(np.where(MAP_LP == 2, 3, MAP_LP))
    edit(sglang_folder(tmp_path, 1)[0], lambda dump: dump.update(last_physical_to_logical_map=broken))
    refused(tmp_path, "the slot map of layer 0 has no slot for expert 2")


def test_sglang_counts_of_another_shape(tmp_path: Path) -> None:
    edit(
        sglang_folder(tmp_path, 1)[0],
        lambda dump: dump["records"][1].update(global_physical_count=torch.ones(3, 5, dtype=torch.int32)),
    )
    refused(tmp_path, r"forward pass 41: counts \[3, 5\], the map \[3, 6\]")


def test_sglang_layer_missing_in_one_step(tmp_path: Path) -> None:
    counts_SLE = DENSE_SLE.copy()
    counts_SLE[1, 2] = 0
    refused(write_stat(tmp_path / "a.pt", counts_SLE), "layer 2 has no tokens in step 1, though other layers have")


def test_sglang_nothing_recorded(tmp_path: Path) -> None:
    refused(write_stat(tmp_path / "a.pt", DENSE_SLE * 0), "no tokens in any of 5 buffered steps")
    refused(write_stat(tmp_path / "b.pt", DENSE_SLE * 0 - 1, unused=0), "negative counts, the smallest is -1")


def test_sglang_expanded_tensor(tmp_path: Path) -> None:
    torch.save({"logical_count": torch.ones(1, dtype=torch.int32).expand(10**5, 10**3, 10**3)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "is larger than the values stored for it")


def test_sglang_float_counts(tmp_path: Path) -> None:
    torch.save({"logical_count": torch.ones(2, 3, 4)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "expected numbers of type")


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["craft", "sglang", None])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, name: str | None) -> None:
    marker = tmp_path / "ran"
    torch.save({"logical_count": Bomb(marker)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "refused: ", name)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    refused(tmp_path / "a.pkl", r"a\.pkl: (refused: it holds posix\.mkdir|not )", name)
    assert not marker.exists()


def test_a_pickle_of_an_array_or_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.ones((2, 3, 4))))
    refused(path, "refused: it holds numpy")
    path.write_bytes(pickle.dumps([1, 2]))
    refused(path, "expected a tensor, got list")


def test_a_compressed_torch_file_is_no_torch_file(tmp_path: Path) -> None:
    path = write_stat(tmp_path / "a.pt", DENSE_SLE)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    refused(tmp_path / "b.pt", "its entries are compressed or overlap", "sglang")


def halves() -> np.ndarray:
    return np.stack([COUNTS_SLE // 2, COUNTS_SLE - COUNTS_SLE // 2])


def test_trtllm_missing_rank(tmp_path: Path) -> None:
    write_trtllm(tmp_path, halves(), [3, 4])
    (tmp_path / "rank0.safetensors").unlink()
    refused(tmp_path, "1 of 2 ranks are missing, the first is rank 0")


def test_trtllm_gap_and_missing_layer(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = write_trtllm(tmp_path, halves(), [3, 4]) / "rank1.safetensors"
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if not key.startswith("101_")}, file)
    refused(tmp_path, r"rank1\.safetensors: iteration 101 is missing between 100 and 102")
    save_file({key: value for key, value in tensors.items() if key != "101_4"}, file)
    refused(tmp_path, "layer 4 of iteration 101 is missing")
    save_file({key: value for key, value in tensors.items() if not key.startswith("102_")}, file)
    refused(tmp_path, r"iterations 100\.\.101 and 2 layers, but rank 0 has iterations 100\.\.102")
    save_file({key: value[:3] for key, value in tensors.items()}, file)
    refused(tmp_path, r"100_3: expected 4 whole numbers, got int64 \[3\]")
    save_file({**tensors, "note": np.zeros(1)}, file)
    refused(tmp_path, "key 'note' is not <iteration>_<layer>")
    file.write_bytes(b"12345678")
    refused(tmp_path, "not a readable safetensors file")


def test_trtllm_idle_iteration(tmp_path: Path) -> None:
    counts = halves()
    counts[:, 1] = 0
    refused(write_trtllm(tmp_path, counts, [3, 4]), "1 of 3 steps hold no tokens, the first is iteration 101")
    (tmp_path / "meta_info.json").write_text('{"num_experts": 0, "num_experts_per_token": 2}')
    refused(tmp_path, "num_experts: Input should be greater than or equal to 1")


def test_omni_gaps(tmp_path: Path) -> None:
    write_omni(tmp_path, COUNTS_SLE, 2)
    file = tmp_path / "activation_counts_recordstep_8_rank_1.txt"
    text = file.read_text()
    file.write_text(text.splitlines()[0])
    refused(tmp_path, r"\[1, 2\] counts, other files have \[2, 2\]")
    file.write_text(text.replace("\t", " "))
    refused(tmp_path, "line 1 is not whole numbers separated by tabs")
    file.unlink()
    refused(tmp_path, "record step 8 has no file of rank 1")
    (tmp_path / "activation_counts_recordstep_8_rank_0.txt").unlink()
    refused(tmp_path, "record step 8 is missing between 7 and 9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[2].update(step=7), "line 3: step 7 follows step 7"),
        (lambda records: records[2].update(expert_load=[[1] * 6]), r"counts are \[1, 6\] \[layers, slots\], the map"),
        (lambda records: records[2].update(expert_load=[[1] * 6, [1] * 5]), "expert_load: rows of unequal length"),
        (lambda records: records[2].update(expert_load=[[1] * 6, [-1] * 6]), "expert_load: expected whole numbers"),
        (lambda records: records[2].update(expert_load=[[1] * 6, [0.5] * 6]), "expert_load: expected whole numbers"),
        (lambda records: records[2].update(expert_load=7), "expert_load: expected a list of lists"),
        (lambda records: records[2].update(p2l_map=[[0, 1, 3, 3, 0, 1]] * 2), "no slot for expert 2"),
        (lambda records: records[2].update(version=2), "version: Input should be 1"),
        (lambda records: records[2].pop("step"), "step: is missing"),
        (lambda records: records[0].update(num_layers=3), "line 2: 2 layers, but the meta record says 3"),
        (lambda records: records[0].update(num_redundant_experts=1), "2 redundant experts, but the meta record says 1"),
        (lambda records: records[1].update(record_type="x"), "line 2: neither"),
        (lambda records: [record.update(expert_load=[[0] * 6] * 2) for record in records[2:3]], "the first is step 17"),
    ],
)
def test_vllm_wrong_records(tmp_path: Path, change: Callable[[list], object], message: str) -> None:
    lines = vllm_lines(physical_counts(COUNTS_SLE, MAP_LP[1:], 1)[0], MAP_LP[1:], redundant=2)
    records = [json.loads(line) for line in lines]
    change(records)
    path = tmp_path / "stats.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    refused(path, message)


def test_vllm_numbers_too_large_to_be_counts(tmp_path: Path) -> None:
    records = [json.loads(line) for line in vllm_lines(COUNTS_SLE, MAP_LP[1:, :4], redundant=0)]
    records[2]["expert_load"][0][1] = 2**70
    path = tmp_path / "stats.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    refused(path, "expert_load: expected whole numbers of at least 0")


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (None, "csv", "npz", "craft"):
        refused(tmp_path / "pipe", "a pipe or a device; give a file", name)


def test_vllm_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text("\n".join(vllm_lines(physical_counts(COUNTS_SLE, MAP_LP[1:], 1)[0], MAP_LP[1:], 2))[:-30])
    refused(path, "line 4: not JSON")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "step,layer,expert,tokens\n0,1,0,5\n0,1,0,5\n",
            "line 3 repeats the step and layer",
        ),
        ("step,layer,expert,tokens\n0,1,0,-5\n", "line 2: negative number -5"),
        ("step,layer,expert,tokens\n0,1,70000,5\n", "expert 70000, expected fewer than 65536"),
        ("step,layer,expert,tokens\n0,1,0,5\n9,2,0,5\n", "layer 2 has no tokens in step 0"),
        ("step,layer,expert,tokens\n0,1,0,x\n", "after line 1: could not convert"),
        ("step,layer,expert,tokens\n0,1,0\n", "3 columns of numbers under 4 names"),
        ("step,layer,expert,tokens\n", "no lines after line 1"),
        ("step,layer,expert,count\n0,1,0,5\n", "line 1 must be step,layer,expert,tokens or"),
        ("step,layer,0,1\n0,1,3,5\n1,1,3,5\n1,2,3,5\n", "3 lines for 2 steps x 2 layers: a partial recording"),
        ("step,layer,0,1\n0,1,3\n1,1,3,5,7\n", "after line 1: the number of columns changed"),
        ("step,layer,0,1\n0,1,3,5\n1,1,3,,\n", "after line 1: "),
        (f"step,layer,0,1\n0,1,3,{10**18}0\n", "after line 1: could not convert|larger than 2"),
        (f"step,layer,0,1\n0,1,3,{10**30}\n", "after line 1: could not convert"),
        ("step,layer,0,1\n0,1,3,5\n1,1,0,0\n", "1 of 2 steps hold no tokens, the first is step 1"),
    ],
)
def test_csv_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "loads.csv"
    path.write_text(text)
    refused(path, message, "csv")
