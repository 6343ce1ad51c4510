"""The routing of a block whose code decides by itself which experts get which tokens, as the experts ABI wants it.

Axes: T tokens, K experts per token, E experts, H hidden size.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from craftc.runtime.block_passes import BlockPasses, Passes, TensorSource, weights_of


class BlockReading(Protocol):
    """A block taken apart into what comes before and after its experts."""

    def with_experts(
        self, experts: nn.Module, tensors: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        """The block's output with `experts`, which has the experts ABI, and the indices that they got. tensors: the
        block's own."""


class BlockRouting(nn.Module):
    """Hidden states, indices and weights for a block's experts, and the rest of the block's output.

    The block's own, unmodified code runs with stand-ins for its experts (`craftc.runtime.block_passes`). It gets its
    tensors as arguments: so it has none of its own, and they keep their names.
    """

    def __init__(self, passes: BlockPasses, tensor_names: tuple[str, ...], hidden: TensorSource, leaf: int) -> None:
        """hidden: what the experts' rows are rows of; leaf: position of the tensor among the block's outputs to which
        they contribute."""
        super().__init__()
        self.passes = passes
        self.tensor_names = tensor_names
        self.hidden = hidden
        self.leaf = leaf

    def train(self, mode: bool = True) -> BlockRouting:
        self.passes.train(mode)
        return super().train(mode)

    def forward(self, tensors: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor, Any]:
        """`hidden [T, H]`, `indices [T, K]` int64 (E for "no expert"), `weights [T, K]`, and the block's output to
        which `add_to_leaf` adds the experts'. tensors: the block's own, in the order of `tensor_names`."""
        found = self.passes.run(dict(zip(self.tensor_names, tensors, strict=True)), args, kwargs, self.hidden)
        hidden_TH = rows_of(tensor_at(found, self.hidden, args, kwargs))
        marked = [(experts, rows_of(leaves_of(output)[self.leaf])) for experts, output in found.marked]
        weight_TE = weights_of(rows_of(leaves_of(found.rest)[self.leaf]), marked)
        return hidden_TH, *chosen(weight_TE), found.rest

    def with_experts(
        self, experts: nn.Module, tensors: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        """See `BlockReading`."""
        hidden_TH, index_TK, weight_TK, rest = self(tensors, *args, **kwargs)
        return add_to_leaf(rest, self.leaf, experts(hidden_TH, index_TK, weight_TK)), index_TK


def chosen(weight_TE: Tensor) -> tuple[Tensor, Tensor]:
    """The experts with a weight: `indices [T, K]` and `weights [T, K]`, K as large as any token needs, at least 1.

    A token with fewer experts has index E, "no expert", with weight 0. One host synchronisation, for K.
    """
    tokens, experts = weight_TE.shape
    top_k = max(1, int((weight_TE.detach() != 0).sum(1).amax())) if tokens else 1
    index_TK = weight_TE.detach().abs().topk(top_k, dim=1).indices
    weight_TK = weight_TE.gather(1, index_TK)
    return torch.where(weight_TK == 0, experts, index_TK), weight_TK


def add_to_leaf(output: Any, leaf: int, routed_TH: Tensor) -> Any:
    """`output` of a block, with `routed_TH` added to its tensor at position `leaf`."""
    leaves, structure = pytree.tree_flatten(output)
    leaves[leaf] = leaves[leaf] + routed_TH.view_as(leaves[leaf]).to(leaves[leaf].dtype)
    return pytree.tree_unflatten(leaves, structure)


def tensor_at(found: Passes, source: TensorSource, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor at `source` in a call of the block with these arguments."""
    values = found.returned[source.path, source.call] if source.path else (args, kwargs)
    tensor: Tensor = leaves_of(values)[source.leaf]
    return tensor


def leaves_of(values: Any) -> list[Any]:
    """What nested tuples, lists and dicts hold, in order."""
    return pytree.tree_leaves(values)


def rows_of(tensor: Tensor) -> Tensor:
    """`[..., H]` as `[T, H]`."""
    return tensor.reshape(-1, tensor.shape[-1])
