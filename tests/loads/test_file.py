import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from craftc.errors import BadInput
from craftc.loads.file import NPZ, npz_bytes, safetensors_bytes, write_loads
from craftc.loads.load_profile import LoadProfile
from tests.places import TRACES

read_loads = NPZ.read
"""Both of our formats are told by content: the same reader."""
COUNTS_SLE = np.arange(1, 25, dtype=np.int64).reshape(2, 3, 4)


def named_loads() -> LoadProfile:
    return LoadProfile.from_counts(
        COUNTS_SLE,
        layer_names=("a", "b", "ç"),
        layer_indices=(1, 3, 5),
        top_k=(2, None, 4),
        step_names=("prefill", "decode"),
    )


def same(one: LoadProfile, other: LoadProfile) -> bool:
    fields = ("layer_names", "layer_indices", "top_k", "step_names", "sha256")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


@pytest.mark.parametrize("name", ["loads.npz", "loads.safetensors"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str):
    write_loads(named_loads(), tmp_path / name)
    loads = read_loads(tmp_path / name)
    assert same(loads, named_loads())
    assert loads.provenance == name
    assert [path.name for path in tmp_path.iterdir()] == [name]


@settings(deadline=None, max_examples=25)
@given(
    counts_SLE=hnp.arrays(
        np.int64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.integers(1, 2**53)
    ),
    names=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=4, unique=True),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, counts_SLE: np.ndarray, names: list[str]):
    loads = LoadProfile.from_counts(counts_SLE, layer_names=tuple(names[: counts_SLE.shape[1]]))
    path = tmp_path_factory.mktemp("loads") / "file"
    for data in (npz_bytes(loads), safetensors_bytes(loads)):
        path.write_bytes(data)
        assert same(read_loads(path), loads)


def test_same_loads_same_bytes():
    script = (
        "import hashlib; from tests.loads.test_file import *;"
        "print(hashlib.sha256(npz_bytes(named_loads()) + safetensors_bytes(named_loads())).hexdigest())"
    )
    runs = {subprocess.check_output([sys.executable, "-c", script], timeout=60) for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", "float32"])
def test_any_dtype_of_whole_numbers_and_other_arrays_beside(tmp_path: Path, dtype: str):
    np.savez(tmp_path / "loads.npz", counts=COUNTS_SLE.astype(dtype), other=np.arange(3), top_k=2)
    loads = read_loads(tmp_path / "loads.npz")
    assert loads.counts_SLE.dtype == np.int64
    assert np.array_equal(loads.counts_SLE, COUNTS_SLE)
    assert loads.top_k == (2, 2, 2)


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
@pytest.mark.parametrize("name", ["gpt-oss-20b-decode", "glm-5.2-domains", "mixtral-8x7b-mmlu"])
def test_recorded_traces(name: str):
    loads = read_loads(TRACES / f"{name}.npz")
    assert loads.counts_SLE.ndim == 3
    assert loads.provenance == f"{name}.npz"


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


RAGGED = np.empty(2, dtype=object)
RAGGED[0], RAGGED[1] = [1, 2], [3]
ZERO_LAYER = COUNTS_SLE.copy()
ZERO_LAYER[:, 1] = 0
NAN = COUNTS_SLE.astype(float)
NAN[1, 2, 3] = np.nan
HALF = COUNTS_SLE + 0.5
NEGATIVE = COUNTS_SLE.copy()
NEGATIVE[0, 1, 2] = -5

BAD_FILES = {
    "empty": (b"", "is empty"),
    "text": (b"layer,expert,load\n1,2,3\n", "neither .npz nor .safetensors"),
    "pickle": (pickle.dumps({"counts": [1]}), "is a pickle"),
    "npy": (npy(COUNTS_SLE), "bare .npy"),
    "truncated npz": (npz(counts=COUNTS_SLE)[:-40], "broken or incomplete file"),
    "flipped npz": (
        npz(counts=COUNTS_SLE).replace(b"\x18\x00\x00", b"\x19\x00\x00"),
        "broken or incomplete file .*CRC",
    ),
    "truncated safetensors": (safetensors_bytes(named_loads())[:-8], "broken or incomplete file"),
    "no counts": (npz(loads=COUNTS_SLE), "no array named counts; it holds loads"),
    "no arrays": (npz(), "no array named counts; it holds nothing"),
    "objects": (npz(counts=RAGGED), "holds Python objects"),
    "texts": (npz(counts=np.array([[["a"]]])), "must be numbers, got dtype"),
    "complex": (npz(counts=COUNTS_SLE * 1j), "must be numbers, got dtype"),
    "two axes": (npz(counts=COUNTS_SLE[0]), r"must have 3 axes .* got shape \[3, 4\]"),
    "no axis": (npz(counts=np.array(3)), "must have 3 axes"),
    "no steps": (npz(counts=COUNTS_SLE[:0]), "counts is empty"),
    "zero layer": (npz(counts=ZERO_LAYER), "layer 1 .* has no tokens"),
    "nan": (npz(counts=NAN), r"counts\[step 1, layer 2, expert 3\] = nan is not finite"),
    "fraction": (npz(counts=HALF), "is not a whole number"),
    "negative": (npz(counts=NEGATIVE), r"counts\[step 0, layer 1, expert 2\] = -5 is negative"),
    "huge": (npz(counts=np.full((1, 1, 1), 2**63, dtype=np.uint64)), "larger than 2"),
    "wrong step names": (npz(counts=COUNTS_SLE, step_names=np.array(["a"])), "1 step names for 2 steps"),
    "wrong layer names": (npz(counts=COUNTS_SLE, layer_names=np.array(["a", "b"])), "2 layer_names for 3 layers"),
    "same layer names": (npz(counts=COUNTS_SLE, layer_names=np.array(["a", "a", "b"])), "must be distinct"),
    "names that are numbers": (npz(counts=COUNTS_SLE, step_names=np.arange(2)), "step_names must be a list of strings"),
    "wrong indices": (npz(counts=COUNTS_SLE, layer_indices=np.array([0, -1, 2])), "layer_indices must be distinct"),
    "one index": (npz(counts=COUNTS_SLE, layer_indices=np.array(3)), "layer_indices must be"),
    "index objects": (npz(counts=COUNTS_SLE, layer_indices=RAGGED), "layer_indices holds Python objects"),
    "wrong top-k": (npz(counts=COUNTS_SLE, top_k=np.array([2, 2, 9])), r"top_k must be in 1\.\.4 .* got 9"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, case: str):
    data, message = BAD_FILES[case]
    path = tmp_path / "loads"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message) as caught:
        read_loads(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path):
    with pytest.raises(BadInput, match="No such file"):
        read_loads(tmp_path / "none.npz")
    with pytest.raises(BadInput, match="is a folder"):
        read_loads(tmp_path)


def test_safetensors_of_another_tool_without_metadata(tmp_path: Path):
    save_file({"counts": COUNTS_SLE, "weights": np.ones(3)}, tmp_path / "x.safetensors")
    assert read_loads(tmp_path / "x.safetensors").layer_names == ("layers.0", "layers.1", "layers.2")


def test_refuses_to_write_another_format(tmp_path: Path):
    with pytest.raises(BadInput, match=r"must end in \.npz or \.safetensors"):
        write_loads(named_loads(), tmp_path / "loads.csv")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_are_loads_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    good = data.draw(st.sampled_from([npz_bytes(named_loads()), safetensors_bytes(named_loads())]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "loads"
    path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(good)))]))
    message = ""
    try:
        read_loads(path)
    except BadInput as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["loads.npz", "loads.safetensors"])
def test_layers_that_differ_are_written_and_read_back(tmp_path: Path, name: str):
    counts_SLE = COUNTS_SLE.copy()
    counts_SLE[:, 1, 2:] = 0
    differ = LoadProfile.from_counts(counts_SLE, layer_experts=(4, 2, 4))
    write_loads(differ, tmp_path / name)
    loads = read_loads(tmp_path / name)
    assert loads.layer_experts == (4, 2, 4)
    assert same(loads, differ)
    assert loads.sha256 != LoadProfile.from_counts(counts_SLE).sha256


def test_files_of_layers_that_are_alike_do_not_say_so():
    stated = LoadProfile.from_counts(COUNTS_SLE, layer_experts=(4, 4, 4))
    assert npz_bytes(stated) == npz_bytes(LoadProfile.from_counts(COUNTS_SLE))
    assert b"experts" not in npz_bytes(stated) + safetensors_bytes(stated)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"experts": np.array([4, 2, 4])}, "step 0 has tokens for expert 2 of layer 1, which has only 2 experts"),
        ({"experts": np.array([4, 4])}, "2 numbers of experts for 3 layers"),
        ({"experts": np.array([4, 5, 4])}, "layers have 4 to 5 experts, counts are of 4"),
        ({"experts": np.array(4)}, "experts must be a list with the number of experts of every layer"),
        ({"experts": np.array([4.0, 4.0, 4.0])}, "experts must be a list of integers"),
        ({"experts": np.array([4, 2, 4]), "top_k": np.array([4, 3, 4])}, r"top_k must be in 1..2 .*got 3"),
    ],
)
def test_wrong_numbers_of_experts_are_one_clear_line(tmp_path: Path, arrays: dict, message: str):
    np.savez(tmp_path / "loads.npz", counts=COUNTS_SLE, **arrays)
    with pytest.raises(BadInput, match=message) as caught:
        read_loads(tmp_path / "loads.npz")
    assert str(caught.value).startswith(str(tmp_path / "loads.npz"))
