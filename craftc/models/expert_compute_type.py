"""The type in which routed experts are multiplied: as the config states it, else by their size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from craftc.errors import BadInput, Unsupported
from craftc.models.compute_types import ComputeType
from craftc.models.dense_weights import plain_type
from craftc.models.expert_shape import ExpertShape, block_paths
from craftc.models.expert_size import plain_bytes
from craftc.models.family_facts import FAMILIES
from craftc.models.model_config import ModelConfig
from craftc.models.quantization import quantization_of, stated_quantization
from craftc.models.text_config import TextConfig

_SCALES = 0.06
"""Largest part by which scales make a weight larger than its bits."""


def expert_compute_type(
    model: ModelConfig, text: TextConfig, shapes: Sequence[ExpertShape]
) -> tuple[ComputeType, tuple[str, ...]]:
    """The type of most experts, and what is not sure about it.

    shapes: of an expert of each MoE layer.
    """
    plain = plain_type(text)[0]
    stated = stated_quantization(text.levels, model.folder)
    if stated is None:
        return _by_size(model, shapes, plain, plain_bytes(text) or 2, "the config states no quantisation")
    facts = FAMILIES.get(text.model_type)
    kinds: Counter[ComputeType] = Counter()
    try:
        quantization = quantization_of(*stated)
        for layer, shape in zip(model.layers, shapes, strict=True):
            matrix = shape.matrices(block_paths(layer.index, facts), 0, facts is not None)[0]
            kinds[quantization.compute_type(matrix) or plain] += 1
    except (BadInput, Unsupported) as error:
        return _by_size(model, shapes, plain, 2, f"what the config says of experts is not understood ({error})")
    return kinds.most_common(1)[0][0], ()


def _by_size(
    model: ModelConfig, shapes: Sequence[ExpertShape], plain: ComputeType, plain_size: int, reason: str
) -> tuple[ComputeType, tuple[str, ...]]:
    bits = 8 * model.layers[0].expert_bytes / (shapes[0].parameters + shapes[0].biases)
    if abs(bits - 8 * plain_size) <= _SCALES * bits:
        return plain, ()
    kind: ComputeType = "float8" if 8 <= bits <= 8 * (1 + _SCALES) else plain
    return kind, (f"{reason}, and an expert has {bits:.1f} bits per weight: it is taken to be multiplied in {kind}",)
