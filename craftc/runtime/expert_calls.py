"""How a block's calls of its experts name rows and the expert of each row.

Axes: T tokens, K experts per token, E experts, H hidden size, P (token, expert) pairs, C rows of an expert's buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class ExpertCalls(Protocol):
    """What the arguments and the result of a call mean."""

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The rows `[P, H]` of a call and the expert of each, int64 `[P]`."""

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Any:
        """What the call returns if its rows become `output_PH`."""


class StackedCalls(ExpertCalls, Protocol):
    """The calls of one module that holds all experts in stacked parameters."""

    def run(self, module: nn.Module, rows_PH: Tensor, expert_P: Tensor, experts: int) -> Tensor:
        """The rows `[P, H]` through their experts, of which `module` holds `experts`."""


@dataclass(frozen=True)
class OneExpert:
    """A module for one expert, called with its rows `[..., H]`."""

    expert: int
    """Its number."""
    extras: int
    """Outputs after the first, which must not matter: NaN here, so that the block's output is NaN if it uses them."""

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        rows_PH = args[0].reshape(-1, args[0].shape[-1])
        return rows_PH, torch.full((rows_PH.shape[0],), self.expert, device=rows_PH.device)

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Any:
        output = output_PH.view(args[0].shape)
        return (output, *(output.new_tensor(torch.nan) for _ in range(self.extras))) if self.extras else output


@dataclass(frozen=True)
class OneWeighingExpert:
    """A module for one expert that weighs its output itself: called with its rows `[n, H]` and weights `[n]` or
    `[n, 1]`."""

    expert: int
    """Its number."""

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        return OneExpert(self.expert, extras=0).rows(args[:1])

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Tensor:
        return output_PH * args[1].reshape(-1, 1)


@dataclass(frozen=True)
class Buffers:
    """One tensor with a buffer of rows for every expert: `[E, C, H]`, `[E * C, H]`, or with a dim before or after E."""

    experts: int
    """Number of experts E in the model."""
    dims: int
    """Dims of the tensor: 2, 3 or 4."""
    axis: int
    """The dim that is E; 0 for `[E * C, H]`."""

    @classmethod
    def of(cls, args: Sequence[Any], output: Any, experts: int) -> Buffers | None:
        if len(args) != 1 or not _is_float(args[0]) or not _is_float(output) or output.shape != args[0].shape:
            return None
        shape = args[0].shape
        if len(shape) == 2 and shape[0] % experts == 0:
            return cls(experts, 2, 0)
        axis = next((axis for axis, size in enumerate(shape[:2]) if size == experts), None)
        return None if axis is None or len(shape) not in (3, 4) else cls(experts, len(shape), axis)

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        buffers = self._by_expert(args[0])
        expert_E = torch.arange(self.experts, device=buffers.device)
        return buffers.flatten(0, -2), expert_E.repeat_interleave(buffers[0, ..., 0].numel())

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Tensor:
        by_expert = output_PH.reshape(self._by_expert(args[0]).shape)
        return by_expert.movedim(0, self.axis).reshape(args[0].shape)

    def run(self, module: nn.Module, rows_PH: Tensor, expert_P: Tensor, experts: int) -> Tensor:
        order_P, count_E = expert_P.argsort(stable=True), torch.bincount(expert_P, minlength=experts)
        capacity, first_E = int(count_E.max()), count_E.cumsum(0) - count_E
        place_P = torch.empty_like(order_P)
        place_P[order_P] = torch.arange(len(order_P), device=order_P.device) - first_E[expert_P[order_P]]
        place_P += expert_P * capacity
        buffers_PH = rows_PH.new_zeros(experts * capacity, rows_PH.shape[1]).index_copy(0, place_P, rows_PH)
        if self.dims == 2:
            return module(buffers_PH)[place_P]
        shape = (experts, *([1] * (self.dims - 3)), capacity, rows_PH.shape[1])
        output = module(buffers_PH.view(shape).movedim(0, self.axis))
        return output.movedim(self.axis, 0).reshape(buffers_PH.shape)[place_P]

    def _by_expert(self, given: Tensor) -> Tensor:
        """With E as the first of at least three dims."""
        return given.unflatten(0, (self.experts, -1)) if self.dims == 2 else given.movedim(self.axis, 0)


@dataclass(frozen=True)
class SortedRows:
    """Rows sorted by expert, and the number of rows of every expert, or where each expert's rows end."""

    ends: bool
    """Whether the second argument holds ends instead of counts."""
    dtype: torch.dtype | None
    """Of the second argument; None if it is a list of ints."""

    @classmethod
    def of(cls, args: Sequence[Any], output: Any, experts: int) -> SortedRows | None:
        if len(args) != 2 or not _is_float(args[0]) or args[0].dim() != 2 or not _is_float(output):
            return None
        numbers = args[1] if isinstance(args[1], Tensor) else torch.as_tensor(args[1])
        if output.shape != args[0].shape or numbers.shape != (experts,):
            return None
        dtype = args[1].dtype if isinstance(args[1], Tensor) else None
        return cls(int(numbers.sum()) != args[0].shape[0], dtype)

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        count_E = torch.as_tensor(args[1], device=args[0].device).to(torch.int64)
        if self.ends:
            count_E = count_E.diff(prepend=count_E.new_zeros(1))
        expert_E = torch.arange(len(count_E), device=args[0].device)
        return args[0], expert_E.repeat_interleave(count_E)

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Tensor:
        return output_PH

    def run(self, module: nn.Module, rows_PH: Tensor, expert_P: Tensor, experts: int) -> Tensor:
        order_P, count_E = expert_P.argsort(stable=True), torch.bincount(expert_P, minlength=experts)
        numbers_E = count_E.cumsum(0) if self.ends else count_E
        sorted_PH = module(rows_PH[order_P], numbers_E.tolist() if self.dtype is None else numbers_E.to(self.dtype))
        return torch.empty_like(sorted_PH).index_copy(0, order_P, sorted_PH)


@dataclass(frozen=True)
class TokensAndIndices:
    """Tokens `[T, H]` and indices `[T, K]`; every token's outputs `[T, K, H]`, not yet weighted."""

    @classmethod
    def of(cls, args: Sequence[Any], output: Any, experts: int) -> TokensAndIndices | None:
        if len(args) != 2 or not all(isinstance(argument, Tensor) and argument.dim() == 2 for argument in args):
            return None
        tokens, indices = args
        integer = indices.dtype in (torch.int32, torch.int64)
        if not _is_float(tokens) or not integer or not _is_float(output) or tokens.shape[0] != indices.shape[0]:
            return None
        return cls() if output.shape == (*indices.shape, tokens.shape[1]) else None

    def rows(self, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
        return args[0].repeat_interleave(args[1].shape[1], 0), args[1].reshape(-1).to(torch.int64)

    def output(self, args: Sequence[Any], output_PH: Tensor) -> Tensor:
        return output_PH.view(*args[1].shape, -1)

    def run(self, module: nn.Module, rows_PH: Tensor, expert_P: Tensor, experts: int) -> Tensor:
        return module(rows_PH, expert_P[:, None])[:, 0]


STACKED = (Buffers, SortedRows, TokensAndIndices)
"""The conventions of modules with stacked parameters; a new one is a class like these."""


def stacked_calls(args: Sequence[Any], output: Any, experts: int) -> StackedCalls | None:
    """What a call with these arguments means that returned `output`, or None if it is none of these conventions."""
    return next((found for kind in STACKED if (found := kind.of(args, output, experts)) is not None), None)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
