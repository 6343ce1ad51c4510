"""The line that tells a user that there is nothing for craftc to do. Not a pass: asked by those that need layers."""

from __future__ import annotations

from craftc.errors import BadInput
from craftc.passes.base import Compilation, NearMiss


def require_moe_layers(compilation: Compilation) -> None:
    """Raise BadInput, naming the first near miss, where the model was searched and has no MoE layer."""
    if not compilation.layers:
        raise BadInput(no_moe_layer(type(compilation.model).__name__, compilation.near_misses))


def no_moe_layer(kind: str, near_misses: tuple[NearMiss, ...]) -> str:
    """What was looked for in a model of class `kind`, or what was almost found."""
    if not near_misses:
        return (
            f"{kind} has no MoE layer: neither a module with 3-D parameters stacked over experts, "
            f"nor a ModuleList of alike experts with a router beside it"
        )
    first = near_misses[0]
    count = "1 near miss" if len(near_misses) == 1 else f"{len(near_misses)} near misses (craftc inspect), the first"
    return f"{kind} has no MoE layer that craftc can handle; {count}: {first.name}: {first.reason}"
