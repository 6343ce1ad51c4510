"""The type in which a quantised matrix is multiplied: that of its weights where activations are quantised too, the
model's own where only weights are, because these are unpacked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from craftc.models.compressed_tensors import group_of
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.modelopt import algorithm_of
from craftc.models.quantization_settings import Settings
from craftc.models.quark import layer_settings_of

ComputeType = Literal["bfloat16", "float16", "float8", "int8", "float4"]
"""Type in which a matrix multiplication runs."""

TypeOf = Callable[[ExpertMatrix], ComputeType | None]
"""Type in which a matrix that is quantised is multiplied, or None for the model's own."""


def compute_type_of(settings: Settings, field: str) -> TypeOf:
    """What `settings` of a method that is known say. Raises BadInput, Unsupported as its sizes do."""
    method = str(settings.get("quant_method") or "modelopt").lower()
    if method in ("fp8", "fbgemm_fp8", "mxfp8"):
        return lambda matrix: "float8"
    if method == "bitsandbytes" and settings.get("load_in_8bit") is True:
        return lambda matrix: "int8"
    if method == "compressed-tensors" or (settings.get("quant_algo") is None and "config_groups" in settings):
        return _compressed_tensors(settings, field)
    if method.startswith("modelopt"):
        return _modelopt(settings, field)
    if method == "quark":
        return _quark(settings, field)
    return lambda matrix: None  # AWQ, GPTQ, mxfp4 and bitsandbytes in four bits quantise weights only


def _compressed_tensors(settings: Settings, field: str) -> TypeOf:
    group = group_of(settings, field)

    def type_of(matrix: ExpertMatrix) -> ComputeType | None:
        found = group(matrix)
        activations = None if found is None else found[0].get("input_activations")
        if not isinstance(activations, dict):
            return None
        return _type_with_bits(activations.get("num_bits"), str(activations.get("type")))

    return type_of


def _type_with_bits(bits: Any, kind: str) -> ComputeType | None:
    if kind == "float":
        return "float4" if bits == 4 else "float8" if bits == 8 else None
    return "int8" if bits == 8 else None


def _modelopt(settings: Settings, field: str) -> TypeOf:
    algorithm = algorithm_of(settings, field)

    def type_of(matrix: ExpertMatrix) -> ComputeType | None:
        found = algorithm(matrix)
        name = "" if found is None else str(found.get("quant_algo")).upper()
        if name in ("NVFP4", "NVFP4_AWQ"):
            return "float4"
        return "float8" if name.startswith(("FP8", "MXFP8", "W4A8")) else None

    return type_of


def _quark(settings: Settings, field: str) -> TypeOf:
    layer = layer_settings_of(settings, field)

    def type_of(matrix: ExpertMatrix) -> ComputeType | None:
        inputs = layer(matrix).get("input_tensors")
        dtype = str(inputs.get("dtype")) if isinstance(inputs, dict) else ""
        return "float4" if dtype == "fp4" else "float8" if dtype.startswith("fp8") else None

    return type_of
