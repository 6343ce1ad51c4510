"""How an experts module stores its experts: which of its tensors have rows of single experts, and which are shared.

    one tensor per matrix, dim 0 the expert      gate_up_proj [E, 2F, H], bias [E, F]            most models
    flat, in the module or in one of its own     mlp.w1 [E x F, H]                               DBRX
    with rows that no expert uses                gate_up_proj [E + Z, 2F, H], down_proj [E, ..]  LongCat-Flash
    beside children that all experts share       post_expert_norm.weight [H]                     Muse Spark

Ids from E on are experts without weights: the module returns their tokens as they are (LongCat's zero experts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_HINT = "expert"
_SHOWN = 3
"""Tensors that a message lists."""


@dataclass(frozen=True)
class ExpertLayout:
    """The tensors of an experts module, by path within it."""

    experts: int
    """Number of experts E, at least 1."""
    rows: tuple[tuple[str, int], ...]
    """Every tensor with rows of single experts, and the rows (of dim 0) that one expert has in it: expert e has those
    from e x rows on."""
    zero_experts: int = 0
    """Ids from E on whose tokens are returned as they are, times their weight."""


def expert_layout(module: nn.Module) -> ExpertLayout | str:
    """The layout of `module`, or the first condition that fails."""
    own = _tensors(module)
    if not own:
        return _layout_in_children(module)
    sizes = sorted({_first(tensor) for tensor in own.values()})
    experts, zero_experts = sizes[0], sizes[-1] - sizes[0]
    if zero_experts and (len(sizes) > 2 or not experts or not count_names(module, zero_experts)):
        return f"its parameters disagree on the number of experts (dim 0): {sizes}"
    if not count_names(module, experts):
        stated = {name: value for name, value in vars(module).items() if _HINT in name and type(value) is int}
        return f"its parameters hold {experts} experts (dim 0), its attributes say {stated or 'nothing of experts'}"
    return ExpertLayout(experts, tuple((name, 1) for name in own), zero_experts)


def _layout_in_children(module: nn.Module) -> ExpertLayout | str:
    """Experts in the tensors of children: stacked in three dimensions, or flat in two."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    missing = f"no 3-D parameters stacked over experts: it has {first_shapes(tensors)}"
    counts = {value for name, value in vars(module).items() if _HINT in name and type(value) is int and value > 1}
    sizes, ranks = ({part(tensor) for tensor in tensors.values()} for part in (_first, Tensor.dim))
    if len(counts) != 1 or len(sizes) != 1 or ranks not in ({2}, {3}):
        return missing
    (experts,), (size,), (rank,) = counts, sizes, ranks
    if size % experts or (rank == 2) != (size > experts):
        return missing
    return ExpertLayout(experts, tuple((name, size // experts) for name in tensors))


def _first(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() else 0


def first_shapes(tensors: Mapping[str, Tensor]) -> str:
    """The first tensors with their shapes, and how many more there are."""
    shown = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:_SHOWN]]
    more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
    return (", ".join(shown) or "none") + more


def count_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Attributes of `module` that hold a number of experts of `count`: integers with `expert` in their name."""
    return tuple(
        name for name, value in vars(module).items() if _HINT in name.lower() and type(value) is int and value == count
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself."""
    return {name: tensor for name, tensor in {**module._parameters, **module._buffers}.items() if tensor is not None}
