"""Bytes of matrices that NVIDIA's ModelOpt quantised, as its exported checkpoints store them."""

from __future__ import annotations

from collections.abc import Callable

from craftc.errors import BadInput, Unsupported
from craftc.models.compressed_tensors import compressed_tensors
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.module_patterns import ModulePatterns
from craftc.models.quantization_settings import FP32, GIVE_SIZE, Settings, Sizer, whole


def modelopt(settings: Settings, field: str) -> Sizer:
    """NVIDIA ModelOpt: one algorithm for all, or `quantized_layers` with one for each module."""
    algorithm = settings.get("quant_algo")
    if algorithm is None and "quant_algo" in settings:
        return lambda matrix, plain: None  # only the KV cache is quantised
    if algorithm is None and isinstance(settings.get("config_groups"), dict):
        return compressed_tensors(settings, field)
    if str(algorithm) != "MIXED_PRECISION":
        return _sizer(settings, field)
    algorithm_for = algorithm_of(settings, field)
    for name, own in settings["quantized_layers"].items():
        _sizer({**settings, **own}, f"{field}: {name}")  # refuses one that is not known, whether it is used or not

    def size(matrix: ExpertMatrix, plain: int) -> int | None:
        found = algorithm_for(matrix)
        return None if found is None else _sizer(found, field)(matrix, plain)

    return size


def algorithm_of(settings: Settings, field: str) -> Callable[[ExpertMatrix], Settings | None]:
    """The settings of a matrix: the same for all, or those of its module. Raises BadInput."""
    if str(settings.get("quant_algo")) != "MIXED_PRECISION":
        return lambda matrix: settings
    layers = settings.get("quantized_layers")
    if not isinstance(layers, dict):
        raise BadInput(f"{field}: quant_algo is MIXED_PRECISION, but quantized_layers is {layers!r}; {GIVE_SIZE}")
    patterns = ModulePatterns(layers, f"{field}: quantized_layers")

    def chosen(matrix: ExpertMatrix) -> Settings | None:
        entry = patterns.entry_for(matrix)
        return None if entry is None else {**settings, **layers[entry]}

    return chosen


def _sizer(settings: Settings, field: str) -> Sizer:
    """One of ModelOpt's algorithms, with the scales that its export stores."""
    algorithm = str(settings.get("quant_algo")).upper()
    if algorithm in ("NVFP4", "NVFP4_AWQ", "W4A8_NVFP4_FP8", "W4A16_NVFP4"):  # two fp32 scales for each matrix
        group = whole(settings, ("group_size",), field, None if algorithm == "W4A8_NVFP4_FP8" else 16)
        return lambda matrix, plain: matrix.packed_bytes(4) + matrix.groups(group) + 2 * FP32
    if algorithm == "FP8":
        return lambda matrix, plain: matrix.values + 2 * FP32
    if algorithm in ("FP8_PB_WO", "FP8_PB_REAL", "FP8_BLOCK_SCALES"):
        return lambda matrix, plain: matrix.values + matrix.blocks(128, 128) * FP32
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        return lambda matrix, plain: matrix.values + matrix.rows * FP32
    if algorithm == "MXFP8":
        return lambda matrix, plain: matrix.values + matrix.groups(32)
    if algorithm in ("W4A8_MXFP4_FP8", "W4A16_MXFP4", "W4A8_MXFP4_MXFP8", "MXFP4"):
        return lambda matrix, plain: matrix.packed_bytes(4) + matrix.groups(32)
    if algorithm in ("W4A16_AWQ", "W4A8_AWQ"):  # group scales and one scale per input, in the model's type
        group = whole(settings, ("group_size",), field, 128)
        return lambda matrix, plain: matrix.packed_bytes(4) + (matrix.groups(group) + matrix.columns) * plain
    raise Unsupported(f"{field}: quant_algo {settings.get('quant_algo')!r} is not known; {GIVE_SIZE}")
