"""Bytes of matrices that llm-compressor quantised: groups of settings, each for the matrices that its targets name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.module_patterns import ModulePatterns, is_class_of_experts, is_pattern
from craftc.models.quantization_settings import FP32, GIVE_SIZE, Settings, Sizer, whole

_PACKED = ("pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")
_ONE_BYTE = ("int-quantized", "float-quantized", "naive-quantized")
"""Formats that store a byte for each value, whatever its bits."""
_SCALE_BYTES = {"torch.uint8": 1, "torch.float8_e4m3fn": 1, "torch.bfloat16": 2, "torch.float16": 2, "torch.float32": 4}


GroupOf = Callable[[ExpertMatrix], tuple[Mapping[str, Any], str] | None]
"""The group of settings for a matrix, and where it stands; None if there is none."""


def compressed_tensors(settings: Settings, field: str) -> Sizer:
    """Bytes by the settings of a matrix's group."""
    group = group_of(settings, field)

    def size(matrix: ExpertMatrix, plain: int) -> int | None:
        found = group(matrix)
        return None if found is None else _group_bytes(matrix, found[0], plain, found[1])

    return size


def group_of(settings: Settings, field: str) -> GroupOf:
    """The first target that names a matrix decides; without one, the first group for the class `Linear`."""
    sparsity = settings.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise Unsupported(f"{field}: sparsity_config: format {sparsity['format']!r} is not known; {GIVE_SIZE}")
    _check_format(settings.get("format"), field)
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise BadInput(f"{field}: no config_groups entry covers the experts; {GIVE_SIZE}")
    named: list[tuple[ModulePatterns, Mapping[str, Any], str]] = []
    classes: dict[str, tuple[Mapping[str, Any], str]] = {}
    for name, group in groups.items():
        where = f"{field}: config_groups: {name}"
        if isinstance(group, dict):
            _check_format(group.get("format"), where)
            group = {"format": settings.get("format"), **group}
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(targets, list):
            raise BadInput(f"{where}: targets must be a list, got {targets!r}")
        for target in map(str, targets):
            if _is_class(target):
                classes.setdefault(target, (group, where))
            else:
                named.append((ModulePatterns([target], where), group, where))

    def chosen(matrix: ExpertMatrix) -> tuple[Mapping[str, Any], str] | None:
        for patterns, group, where in named:
            if patterns.entry_for(matrix) is not None:
                return group, where
        other = next((name for name in classes if is_class_of_experts(name)), None)
        if other is not None and classes[other][0].get("weights") != classes.get("Linear", classes[other])[0].get(
            "weights"
        ):
            raise Unsupported(
                f"{field}: config_groups: Linear and {other} differ; which of them are the experts is not known; "
                f"{GIVE_SIZE}"
            )
        if "Linear" in classes:
            return classes["Linear"]
        if classes:
            raise Unsupported(
                f"{field}: config_groups: whether {', '.join(sorted(classes))} are experts is not known; {GIVE_SIZE}"
            )
        return None

    return chosen


def _check_format(name: Any, where: str) -> None:
    if name is not None and name not in (*_PACKED, *_ONE_BYTE, "mixed-precision"):
        raise Unsupported(f"{where}: format {name!r} is not known; {GIVE_SIZE}")


def _is_class(target: str) -> bool:
    return not is_pattern(target) and "." not in target and target[:1].isupper()


def _group_bytes(matrix: ExpertMatrix, group: Mapping[str, Any], plain: int, where: str) -> int | None:
    """Packed values, and scales, zero points and the like for each part that has its own."""
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, dict):
        raise BadInput(f"{where}: weights must be an object, got {type(weights).__name__}")
    bits = whole(weights, ("num_bits",), where)
    parts = _parts(matrix, weights, where)
    four_bit_floats = weights.get("type") == "float" and bits == 4
    nvfp4 = four_bit_floats and weights.get("group_size") == 16
    stated = weights.get("scale_dtype")
    scale = _SCALE_BYTES.get(str(stated), 1 if four_bit_floats else plain)
    zero_points = 0 if weights.get("symmetric", True) else math.ceil(parts * bits / 8)
    order = 4 * matrix.columns if weights.get("actorder") == "group" else 0
    whole_matrix = FP32 * (2 if group.get("input_activations") else 1) if nvfp4 else 0
    stored_bits = max(bits, 8) if group.get("format") in _ONE_BYTE else bits
    return matrix.packed_bytes(stored_bits) + parts * scale + zero_points + order + whole_matrix


def _parts(matrix: ExpertMatrix, weights: Mapping[str, Any], where: str) -> int:
    """Parts of the matrix that have a scale of their own."""
    strategy = weights.get("strategy")
    if strategy is None:
        strategy = "tensor" if weights.get("group_size") is None else "group"
    if strategy in ("group", "tensor_group"):
        return matrix.groups(whole(weights, ("group_size",), where))
    if strategy == "block":
        block = weights.get("block_structure") or [128, 128]
        if isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block):
            return matrix.blocks(*block)
        raise BadInput(f"{where}: block_structure must be two sizes, got {block!r}")
    if strategy in ("channel", "tensor"):
        return matrix.rows if strategy == "channel" else 1
    raise Unsupported(f"{where}: strategy {strategy!r} is not known; {GIVE_SIZE}")
