"""What craftc knows about one MoE layer: enough to plan without the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from craftc.errors import BadInput

Layout = Literal["fused", "module_list", "unknown"]
"""`fused`: one module, 3-D parameters, dim 0 = expert. `module_list`: a module per expert. `unknown`: loads only."""


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer of a model."""

    name: str
    """Path of the experts module, e.g. `model.layers.3.mlp.experts`; unique within a model."""
    index: int
    """Position of its decoder block in the model, from 0."""
    experts: int
    """Number of logical experts, at least 1."""
    expert_bytes: int
    """Bytes of one expert's parameters, at least 1."""
    top_k: int | None = None
    """Experts per token, 1..experts, if known."""
    layout: Layout = "unknown"
    """How the experts' weights are stored."""
    router: str | None = None
    """Path of the router module, if known."""

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise BadInput(f"layer {self.name}: experts must be at least 1, got {self.experts}")
        if self.expert_bytes < 1:
            raise BadInput(f"layer {self.name}: expert_bytes must be at least 1, got {self.expert_bytes}")
        if self.index < 0:
            raise BadInput(f"layer {self.name}: index must not be negative, got {self.index}")
        if self.top_k is not None and not 1 <= self.top_k <= self.experts:
            raise BadInput(f"layer {self.name}: top_k must be in 1..{self.experts}, got {self.top_k}")
