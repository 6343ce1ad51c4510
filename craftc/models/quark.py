"""Bytes of matrices that AMD Quark quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from craftc.errors import Unsupported
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.module_patterns import ModulePatterns
from craftc.models.quantization_settings import FP32, GIVE_SIZE, Settings, Sizer


def quark(settings: Settings, field: str) -> Sizer:
    """A global setting, and others for some layers."""
    if settings.get("layer_type_quant_config"):
        raise Unsupported(f"{field}: layer_type_quant_config is not known; {GIVE_SIZE}")
    for own in (settings.get("layer_quant_config") or {}).values():
        _sizer(own, f"{field}: layer_quant_config")
    _sizer(settings.get("global_quant_config"), f"{field}: global_quant_config")
    chosen = layer_settings_of(settings, field)
    return lambda matrix, plain: _sizer(chosen(matrix), field)(matrix, plain)


def layer_settings_of(settings: Settings, field: str) -> Callable[[ExpertMatrix], Settings]:
    """The settings of a matrix: those of its layer, else the global ones."""
    others = settings.get("layer_quant_config") or {}
    patterns = ModulePatterns(others, f"{field}: layer_quant_config")

    def chosen(matrix: ExpertMatrix) -> Settings:
        entry = patterns.entry_for(matrix)
        own: Settings = settings["global_quant_config"] if entry is None else others[entry]
        return own

    return chosen


def _sizer(settings: Any, field: str) -> Sizer:
    if not isinstance(settings, dict):
        raise Unsupported(f"{field} is {settings!r}, and says nothing of weights; {GIVE_SIZE}")
    weight = settings.get("weight")
    if weight is None:
        return lambda matrix, plain: None
    dtype, scheme = str(weight.get("dtype")), str(weight.get("qscheme"))
    if dtype == "fp4" and scheme == "per_group" and weight.get("group_size") == 32:
        return lambda matrix, plain: matrix.packed_bytes(4) + matrix.groups(32)
    if dtype == "fp8_e4m3" and scheme == "per_tensor":
        return lambda matrix, plain: matrix.values + FP32
    if dtype == "fp8_e4m3" and scheme == "per_channel":
        return lambda matrix, plain: matrix.values + matrix.rows * FP32
    raise Unsupported(f"{field}: weight of dtype {dtype}, qscheme {scheme} is not known; {GIVE_SIZE}")
