"""Bytes that one expert takes in a checkpoint, from its shapes and the `quantization_config` of a Hugging Face config.

Values, scales and zero points are counted; what a server does with them when it loads (repacking, other scale types)
is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from craftc.errors import BadInput, Unsupported

Quantization = Mapping[str, Any]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_FP32, _FP16 = 4, 2


@dataclass(frozen=True)
class ExpertShape:
    """One expert's parameters."""

    matrices: tuple[tuple[int, int], ...]
    """Outputs and inputs of every weight matrix."""
    biases: int
    """Bias values, never quantised."""
    dtype_bytes: int
    """Bytes of one value that is not quantised, and of scales in the model's type."""
    linear_names: tuple[str, ...]
    """Paths of one expert's matrices as checkpoints name them, to look up in lists of what is not quantised."""


def expert_bytes(shape: ExpertShape, quantization: Quantization | None) -> int:
    """Bytes of one expert. Raises Unsupported for an unknown method, BadInput if its settings are missing or wrong."""
    if quantization is None or _is_left_out(shape, quantization):
        return (sum(rows * columns for rows, columns in shape.matrices) + shape.biases) * shape.dtype_bytes
    method = quantization.get("quant_method")
    size = _METHODS.get(str(method))
    if size is None:
        raise Unsupported(
            f"quantization_config: method {method!r} is not known ({', '.join(_METHODS)}); "
            f"give the size of one expert with --expert-bytes"
        )
    return sum(size(matrix, quantization, shape) for matrix in shape.matrices) + shape.biases * shape.dtype_bytes


def _is_left_out(shape: ExpertShape, quantization: Quantization) -> bool:
    """Whether a list of unquantised modules includes the experts: `re:` patterns, parts of paths, or whole paths."""
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        for entry in quantization.get(key) or ():
            if any(_names(str(entry), name) for name in shape.linear_names):
                return True
    return False


def _names(entry: str, name: str) -> bool:
    if entry.startswith("re:"):
        try:
            return re.match(entry[3:], name) is not None
        except re.error:
            raise BadInput(f"quantization_config: {entry!r} is not a pattern") from None
    # Entries with * are globs; bare ones are a path or a part of it, whole words between dots.
    if "*" in entry:
        return re.fullmatch(re.escape(entry).replace(r"\*", ".*"), name) is not None
    return f".{entry.strip('.')}." in f".{name}."


def _fp8(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """One byte per value, one fp32 scale per block (or matrix), and one for activations if they are static."""
    rows, columns = matrix
    block = quantization.get("weight_block_size")
    scales = 1
    if block is not None:
        if not (isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block)):
            raise BadInput(f"quantization_config: weight_block_size must be two sizes, got {block!r}")
        scales = math.ceil(rows / block[0]) * math.ceil(columns / block[1])
    activation_scale = _FP32 if quantization.get("activation_scheme") == "static" else 0
    return rows * columns + scales * _FP32 + activation_scale


def _mxfp4(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """Four bits per value and one byte of scale for every 32 values."""
    rows, columns = matrix
    return rows * math.ceil(columns / 2) + rows * math.ceil(columns / 32)


def _gptq(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """The parts of AWQ and a group number for every input."""
    return _awq(matrix, quantization, shape) + 4 * matrix[1]


def _awq(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """Packed values, fp16 scales and packed zero points for every group."""
    bits = _bits(quantization.get("bits", quantization.get("w_bit")))
    groups = _groups(matrix, quantization.get("group_size", quantization.get("q_group_size")))
    return math.ceil(matrix[0] * matrix[1] * bits / 8) + groups * _FP16 + math.ceil(groups * bits / 8)


def _modelopt(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """NVFP4: four bits per value, one byte of scale for every 16; FP8: one byte per value.

    Two fp32 scales per matrix.
    """
    rows, columns = matrix
    algorithm = str(quantization.get("quant_algo"))
    if algorithm == "NVFP4":
        return rows * math.ceil(columns / 2) + rows * math.ceil(columns / 16) + 2 * _FP32
    if algorithm == "FP8":
        return rows * columns + 2 * _FP32
    raise Unsupported(f"quantization_config: modelopt's {algorithm} is not known; give --expert-bytes")


def _compressed_tensors(matrix: tuple[int, int], quantization: Quantization, shape: ExpertShape) -> int:
    """The group of the configuration that covers the experts' matrices: bits, strategy, symmetry."""
    weights = _weights_of_group(quantization, shape)
    rows, columns = matrix
    bits, strategy = _bits(weights.get("num_bits")), weights.get("strategy")
    is_nvfp4 = weights.get("type") == "float" and bits == 4
    scale_bytes = 1 if is_nvfp4 else shape.dtype_bytes
    if strategy in ("group", "tensor_group"):
        scales = _groups(matrix, weights.get("group_size"))
    elif strategy == "block":
        block = weights.get("block_structure") or [128, 128]
        scales = math.ceil(rows / block[0]) * math.ceil(columns / block[1])
    elif strategy in ("channel", "tensor"):
        scales = rows if strategy == "channel" else 1
    else:
        raise Unsupported(f"quantization_config: strategy {strategy!r} is not known; give --expert-bytes")
    zero_points = 0 if weights.get("symmetric", True) else math.ceil(scales * bits / 8)
    return math.ceil(rows * columns * bits / 8) + scales * scale_bytes + zero_points + (_FP32 if is_nvfp4 else 0)


def _weights_of_group(quantization: Quantization, shape: ExpertShape) -> Mapping[str, Any]:
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        targets = group.get("targets") or () if isinstance(group, dict) else ()
        covered = any(target == "Linear" or _names(str(target), shape.linear_names[0]) for target in targets)
        if covered and isinstance(group.get("weights"), dict):
            return dict(group["weights"])
    raise BadInput("quantization_config: no config_groups entry covers the experts; give --expert-bytes")


def _bits(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 16:
        raise BadInput(f"quantization_config: bits must be in 1..16, got {value!r}")
    return value


def _groups(matrix: tuple[int, int], size: Any) -> int:
    """Groups of a matrix; size -1 means one group for all inputs of an output."""
    if type(size) is not int or size == 0 or size < -1:
        raise BadInput(f"quantization_config: group_size must be positive or -1, got {size!r}")
    return matrix[0] * (1 if size == -1 else math.ceil(matrix[1] / size))


_METHODS: Mapping[str, Callable[[tuple[int, int], Quantization, ExpertShape], int]] = {
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "gptq": _gptq,
    "awq": _awq,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
