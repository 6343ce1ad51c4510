"""Matrices of one expert for tests of what quantisation methods make of them."""

from __future__ import annotations

from typing import Any

from craftc.models.expert_shape import ExpertShape, block_paths
from craftc.models.family_facts import FAMILIES
from craftc.models.quantization import quantization_of

HIDDEN, WIDTH = 256, 128
VALUES = HIDDEN * WIDTH
"""Weights of each of the three matrices."""
PLAIN = 2
"""Bytes of a value in the model's own type."""


def matrix_sizes(settings: dict[str, Any], layer: int = 0, expert: int = 0) -> list[int | None]:
    """Bytes of gate, up and down of a Qwen3 layer; None for what is not quantised."""
    shape = ExpertShape(HIDDEN, WIDTH, gated=True, biased=False)
    matrices = shape.matrices(block_paths(layer, FAMILIES["qwen3_moe"]), expert, block_is_known=True)
    quantization = quantization_of(settings, "quantization_config")
    return [quantization.matrix_bytes(matrix, PLAIN) for matrix in matrices]
