"""The weight matrices of one expert, as files of quantisation settings name them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertMatrix:
    """One weight matrix of one expert."""

    rows: int
    """Outputs, at least 1."""
    columns: int
    """Inputs, at least 1."""
    names_by_block: tuple[tuple[str, ...], ...]
    """Paths from `layers` on (`layers.3.mlp.experts.0.gate_proj`), in every spelling, for each name that the MoE block
    may have in a checkpoint.
    """
    block_is_known: bool
    """Whether all of `names_by_block` are names of this model's block, or only one of them, and not known which."""

    @property
    def values(self) -> int:
        """Weights."""
        return self.rows * self.columns

    def packed_bytes(self, bits: int) -> int:
        """Bytes of all weights at `bits` each."""
        return math.ceil(self.values * bits / 8)

    def groups(self, size: int) -> int:
        """Groups of `size` inputs; size -1 means one group for all inputs of an output."""
        return self.rows * (1 if size == -1 else math.ceil(self.columns / size))

    def blocks(self, rows: int, columns: int) -> int:
        """Blocks of `rows` x `columns` weights."""
        return math.ceil(self.rows / rows) * math.ceil(self.columns / columns)
