"""A block's own forward, run with other code in place of its experts' and on tensors that are given to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BlockCopy:
    """The modules of a block without its tensors: its code runs, and neither the block nor its weights change."""

    def __init__(self, block: nn.Module, experts: Sequence[str]) -> None:
        """experts: paths of the experts in the block, in their order."""
        without_tensors: dict[int, Any] = {
            id(tensor): tensor.detach().to("meta").requires_grad_(tensor.requires_grad) for tensor in block.buffers()
        }
        for parameter in block.parameters():
            empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            without_tensors[id(parameter)] = empty
        self.block = copy.deepcopy(block, without_tensors)
        self.experts = tuple(self.block.get_submodule(path) for path in experts)
        self._dtypes = {name: tensor.dtype for name, tensor in own_tensors(block, experts).items()}

    def set_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let calls of `module`, one of the block's, run `forward` instead."""
        vars(module)["forward"] = forward

    def run(self, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The block's output, with its parameters and buffers those in `tensors`, by name."""
        self._follow_cast(tensors)
        return torch.func.functional_call(self.block, dict(tensors), args, kwargs)

    def _follow_cast(self, tensors: Mapping[str, Tensor]) -> None:
        """If the tensors were cast after the copy was made, so are the copy's: code may ask an expert for its dtype."""
        for name, before in self._dtypes.items():
            now = tensors[name].dtype
            if now != before and now.is_floating_point:
                self.block.to(now)
                self._dtypes = {other: tensors[other].dtype for other in self._dtypes}
                return


def own_tensors(block: nn.Module, experts: Sequence[str]) -> dict[str, Tensor]:
    """Parameters and buffers of `block` outside its experts, by name; tied ones once."""
    inside = tuple(f"{path}." for path in experts)
    tensors = dict(block.named_parameters()) | dict(block.named_buffers())
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(inside)}


def other_modules(block: nn.Module, experts: Sequence[str], path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules inside `block` that have a forward of their own and hold no experts, with their paths."""
    for name, child in block.named_children():
        inner = f"{path}.{name}" if path else name
        if inner in experts:
            continue
        if type(child).forward is nn.Module.forward or any(expert.startswith(f"{inner}.") for expert in experts):
            yield from other_modules(child, experts, inner)
        else:
            yield inner, child


def unshared(tensor: Tensor) -> Tensor:
    """A parameter as it is; of a buffer a copy, so that running the block changes none."""
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
