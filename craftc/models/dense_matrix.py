"""The weight matrices of a decoder layer outside its routed experts."""

from __future__ import annotations

from dataclasses import dataclass

from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.family_facts import FAMILIES, UNKNOWN


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

    def in_layer(self, model_type: str, index: int) -> ExpertMatrix:
        """The matrix under its names in decoder layer `index`, as lists of quantised modules are asked about it."""
        facts = FAMILIES.get(model_type, UNKNOWN)
        block, _, rest = self.path.partition(".")
        blocks = [block]
        if block == "mlp" or facts.block == "mixer":  # Nemotron-H calls every block so
            blocks += [name for name in (facts.block, *facts.stored_blocks) if name]
        stack = facts.stack.rpartition(".")[2]
        names = tuple((f"{stack}.{index}.{name}.{rest}" if rest else f"{stack}.{index}.{name}",) for name in blocks)
        return ExpertMatrix(self.rows, self.columns, names, block_is_known=True)
