"""The weight matrices of a decoder layer outside its routed experts."""

from __future__ import annotations

from dataclasses import dataclass

from craftc.models.expert_matrix import ExpertMatrix


@dataclass(frozen=True)
class DenseMatrix:
    """One weight matrix, that every token is multiplied with."""

    path: str
    """Path from its decoder layer on, such as `self_attn.q_proj`; fused and split names are not told apart."""
    rows: int
    """Outputs, at least 1."""
    columns: int
    """Inputs, at least 1."""
    is_plain: bool = False
    """Whether no quantisation covers it: routers, convolutions and small gates."""

    @property
    def values(self) -> int:
        """Weights."""
        return self.rows * self.columns

    def in_layer(self, stack: str, index: int) -> ExpertMatrix:
        """The matrix under its name in decoder layer `index`, as lists of quantised modules are asked about it."""
        return ExpertMatrix(self.rows, self.columns, ((f"{stack}.{index}.{self.path}",),), block_is_known=True)
