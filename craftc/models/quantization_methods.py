"""Bytes of a quantised matrix for every method that is known here: values, scales and zero points, as checkpoints store
them. What a server does with them when it loads (repacking, other scale types) is not counted.

A method's builder checks settings once and returns a `Sizer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.models.compressed_tensors import compressed_tensors
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.modelopt import modelopt
from craftc.models.module_patterns import ModulePatterns
from craftc.models.quantization_settings import FP16, FP32, GIVE_SIZE, Settings, Sizer, whole
from craftc.models.quark import quark


def sizer_of(settings: Settings, field: str) -> Sizer:
    """How large matrices are under `settings`; `field` names them in messages. Raises Unsupported, BadInput."""
    method = settings.get("quant_method")
    if method is None and "quant_algo" in settings:
        method = "modelopt"
    builder = _METHODS.get(str(method).lower())
    if builder is None:
        known = ", ".join(sorted(_METHODS))
        raise Unsupported(f"{field}: quant_method {method!r} is not known ({known}); {GIVE_SIZE}")
    return builder(settings, field)


def _fp8(settings: Settings, field: str) -> Sizer:
    """One byte per value, one fp32 scale per block (or matrix), and one for activations if they are static.

    DeepSeek-V4 stores its experts in four bits, with a scale for every 32 values.
    """
    if settings.get("expert_dtype") == "fp4":
        scale = 1 if settings.get("scale_fmt") == "ue8m0" else FP32
        return lambda matrix, plain: matrix.packed_bytes(4) + matrix.groups(32) * scale
    if settings.get("expert_dtype") not in (None, "fp8"):
        raise Unsupported(f"{field}: expert_dtype {settings['expert_dtype']!r} is not known; {GIVE_SIZE}")
    block = settings.get("weight_block_size")
    if block is not None and not _is_block(block):
        raise BadInput(f"{field}: weight_block_size must be two sizes, got {block!r}")
    static = FP32 if settings.get("activation_scheme") == "static" else 0
    return lambda matrix, plain: matrix.values + (matrix.blocks(*block) if block else 1) * FP32 + static


def _row_fp8(settings: Settings, field: str) -> Sizer:
    """FBGEMM: one byte per value, one fp32 scale per output."""
    return lambda matrix, plain: matrix.values + matrix.rows * FP32


def _mxfp(bits: int) -> Callable[[Settings, str], Sizer]:
    """One byte of scale for every 32 values."""
    return lambda settings, field: lambda matrix, plain: matrix.packed_bytes(bits) + matrix.groups(32)


def _awq(settings: Settings, field: str) -> Sizer:
    """Packed values, fp16 scales and packed zero points for every group."""
    bits = whole(settings, ("bits", "w_bit"), field)
    size = whole(settings, ("group_size", "q_group_size"), field)
    return lambda matrix, plain: _awq_bytes(matrix, bits, size)


def _awq_bytes(matrix: ExpertMatrix, bits: int, size: int) -> int:
    groups = matrix.groups(size)
    return matrix.packed_bytes(bits) + groups * FP16 + math.ceil(groups * bits / 8)


def _gptq(settings: Settings, field: str) -> Sizer:
    """The parts of AWQ and a group number for every input; GPTQModel's `dynamic` has other settings for some matrices:
    its first pattern that fits decides, and one that begins with `-:` leaves a matrix as it is.
    """
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, dict):
        raise BadInput(f"{field}: dynamic must be an object of patterns, got {type(dynamic).__name__}")
    rules = [
        (ModulePatterns(["re:" + pattern.removeprefix("+:").removeprefix("-:")], f"{field}: dynamic"), pattern, other)
        for pattern, other in dynamic.items()
    ]
    within = settings.get("modules_in_block_to_quantize")
    chosen = None if not within else ModulePatterns(_flat(within), f"{field}: modules_in_block_to_quantize")

    def size(matrix: ExpertMatrix, plain: int) -> int | None:
        if chosen is not None and chosen.entry_for(matrix) is None:
            return None
        used = settings
        for patterns, pattern, other in rules:
            if patterns.entry_for(matrix) is None:
                continue
            if pattern.startswith("-:") or other is False:
                return None
            used = {**settings, **(other if isinstance(other, dict) else {})}
            break
        bits, group = whole(used, ("bits",), field), whole(used, ("group_size",), field)
        return _awq_bytes(matrix, bits, group) + 4 * matrix.columns

    return size


def _bitsandbytes(settings: Settings, field: str) -> Sizer:
    """Four bits in blocks of 64 with an fp32 scale each (one byte each if quantised twice), or eight with one per
    output.
    """
    if settings.get("load_in_8bit") is True:
        return lambda matrix, plain: matrix.values + matrix.rows * FP32
    if settings.get("load_in_4bit") is not True:
        raise BadInput(f"{field}: neither load_in_4bit nor load_in_8bit is true; {GIVE_SIZE}")
    twice = settings.get("bnb_4bit_use_double_quant") is True

    def size(matrix: ExpertMatrix, plain: int) -> int:
        scales = math.ceil(matrix.values / 64)
        return matrix.packed_bytes(4) + (scales + (math.ceil(scales / 256) + 1) * FP32 if twice else scales * FP32)

    return size


def _is_block(block: object) -> bool:
    return (
        isinstance(block, (list, tuple)) and len(block) == 2 and all(type(side) is int and side > 0 for side in block)
    )


def _flat(names: Any) -> list[str]:
    return [str(name) for part in names for name in (part if isinstance(part, list) else [part])]


_METHODS: Mapping[str, Callable[[Settings, str], Sizer]] = {
    "awq": _awq,
    "awq_marlin": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": compressed_tensors,
    "fbgemm_fp8": _row_fp8,
    "fp8": _fp8,
    "gptq": _gptq,
    "gptq_marlin": _gptq,
    "gptqmodel": _gptq,
    "modelopt": modelopt,
    "modelopt_fp4": modelopt,
    "modelopt_mixed": modelopt,
    "mxfp4": _mxfp(4),
    "mxfp8": _mxfp(8),
    "quark": quark,
}
