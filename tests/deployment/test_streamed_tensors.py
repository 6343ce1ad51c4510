from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from craftc.deployment.streamed_tensors import StreamedTensor, write_tensors
from craftc.errors import Unsupported

DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.float16, torch.uint8]


def in_rows(name: str, tensor: torch.Tensor) -> StreamedTensor:
    return StreamedTensor(name, tensor.dtype, tuple(tensor.shape), lambda: list(tensor))


def in_one_piece(name: str, tensor: torch.Tensor) -> StreamedTensor:
    return StreamedTensor(name, tensor.dtype, tuple(tensor.shape), lambda: [tensor])


def test_the_library_reads_every_dtype(tmp_path: Path):
    tensors = {str(dtype): (torch.arange(15).reshape(3, 5) % 7).to(dtype) for dtype in DTYPES}
    write_tensors(tmp_path / "x", [in_rows(name, tensor) for name, tensor in tensors.items()], {"who": "craftc"})
    read = load_file(tmp_path / "x")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].view(torch.uint8), tensor.view(torch.uint8))
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == {"who": "craftc"}


def test_empty_scalar_and_strided_tensors(tmp_path: Path):
    strided = torch.arange(12.0).reshape(3, 4).t()
    whole = {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "strided": strided}
    write_tensors(tmp_path / "x", [in_one_piece(name, tensor) for name, tensor in whole.items()], {})
    read = load_file(tmp_path / "x")
    assert all(torch.equal(read[name], tensor) for name, tensor in whole.items())


def test_order_of_tensors_does_not_change_the_bytes(tmp_path: Path):
    tensors = [in_rows("b", torch.ones(2, 2)), in_rows("a", torch.zeros(1, 2)), in_rows("c", torch.ones(1).bool())]
    write_tensors(tmp_path / "x", tensors, {})
    write_tensors(tmp_path / "y", tensors[::-1], {})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match=r"z: weights of torch\.complex64 cannot be written"):
        write_tensors(tmp_path / "x", [in_rows("z", torch.ones(1, dtype=torch.complex64))], {})
