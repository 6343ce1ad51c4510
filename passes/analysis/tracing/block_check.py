"""Whether a block computes the same as its routing followed by its experts: with its own experts, and with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from craftc.errors import one_line
from craftc.passes.analysis.tracing.region_check import StandIn, tolerance
from craftc.runtime.block_copy import BlockCopy, own_tensors, unshared
from craftc.runtime.block_routing import BlockReading, leaves_of
from craftc.runtime.expert_calls import ExpertCalls
from craftc.runtime.local_experts import expert_count
from craftc.runtime.module_list_experts import ModuleListExperts

_TRIALS = 8
"""Most calls with random tokens; fewer if they reach all experts."""


class BlockCheck:
    """Compares a block with its reading, call by call, on copies of its buffers and with the same random numbers."""

    def __init__(
        self, block: nn.Module, called: Mapping[str, ExpertCalls], experts: nn.Module, reading: BlockReading
    ) -> None:
        """called: the modules in the block that hold experts, by path; experts: all of them behind the experts ABI."""
        self._block, self._called, self._experts, self._reading = block, called, experts, reading

    def why_not_equal(self, rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The comparison that fails, or None: with the block's own experts on these arguments, and with stand-ins, each
        a row-wise map of its own, on these and on random tokens, until every expert had some. rows: some that an
        expert was given."""
        everything = dict(self._block.named_parameters()) | dict(self._block.named_buffers())
        copied = BlockCopy(self._block, tuple(self._called))
        # Matrix products of other numbers of rows round differently; stand-ins work element by element.
        try:
            reason, _ = self._compare(copied, everything, self._experts, _loose_tolerance, args, kwargs)
        except Exception as error:
            return f"its experts do not run on rows of tokens that are taken out of their context: {one_line(error)}"
        if reason:
            return reason
        count = expert_count(self._experts)
        stand_ins = _stand_ins(count, rows)
        for module, calls in zip(copied.experts, self._called.values(), strict=True):
            copied.set_forward(module, _Mapped(calls, stand_ins))
        own = own_tensors(self._block, tuple(self._called))
        reached = torch.tensor([], dtype=torch.int64)
        for values in ((args, kwargs), *islice(random_calls(args, kwargs), _TRIALS)):
            reason, indices = self._compare(copied, own, ModuleListExperts(stand_ins), tolerance, *values)
            if reason:
                return reason
            reached = torch.cat([reached, indices.cpu()]).unique()
            if len(reached[reached < count]) == count:
                break
        return None

    def _compare(
        self,
        copied: BlockCopy,
        tensors: Mapping[str, Tensor],
        experts: nn.Module,
        allowed: Callable[[torch.dtype], float],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[str | None, Tensor]:
        """The difference, if it is too large, and the experts that had tokens."""
        own = tuple(unshared(tensor) for tensor in own_tensors(self._block, tuple(self._called)).values())
        expected = _seeded(
            lambda: copied.run({name: unshared(tensor) for name, tensor in tensors.items()}, args, kwargs)
        )
        got, indices = _seeded(lambda: self._reading.with_experts(experts, own, args, kwargs))
        for ours, theirs in zip(leaves_of(got), leaves_of(expected), strict=True):
            if isinstance(theirs, Tensor) and (reason := _why_different(ours, theirs, allowed)):
                return reason, indices.unique()
        return None, indices.unique()


class _Mapped:
    """The forward of a module that holds experts, with every row mapped by its expert's stand-in."""

    def __init__(self, calls: ExpertCalls, stand_ins: Sequence[StandIn]) -> None:
        self._calls = calls
        self._scale_EH = torch.stack([stand_in.scale for stand_in in stand_ins])
        self._shift_EH = torch.stack([stand_in.shift for stand_in in stand_ins])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        rows_PH, expert_P = self._calls.rows(given)
        return self._calls.output(given, rows_PH * self._scale_EH[expert_P] + self._shift_EH[expert_P])


def _stand_ins(experts: int, rows: Tensor) -> list[StandIn]:
    generator = torch.Generator().manual_seed(0)
    return [StandIn(rows.shape[-1], rows.dtype, generator).to(rows.device) for _ in range(experts)]


def _why_different(got: Tensor, expected: Tensor, tolerance_of: Callable[[torch.dtype], float]) -> str | None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"its block returns {list(expected.shape)} {expected.dtype}, read {list(got.shape)} {got.dtype}"
    if not expected.numel() or torch.equal(got, expected):
        return None
    allowed = tolerance_of(expected.dtype) if expected.is_floating_point() else 0.0
    difference = float((got.double() - expected.double()).abs().max() / expected.double().abs().max())
    if difference <= allowed:
        return None
    return (
        f"its block's output is not a weighted sum of its experts' outputs plus a rest that does not depend on them: "
        f"relative difference {difference:.1e}, {allowed:.1e} allowed"
    )


def _loose_tolerance(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps ** 0.5


def random_calls(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Endlessly, the call with other values: random numbers in place of floating-point ones, like them in mean and
    deviation. If there are none, integers are shuffled."""
    generator = torch.Generator().manual_seed(0)
    replaceable = _is_float if any(_is_float(leaf) for leaf in leaves_of((args, kwargs))) else _is_tensor

    def other(leaf: Any) -> Any:
        if not replaceable(leaf):
            return leaf
        if not leaf.is_floating_point():
            return leaf.reshape(-1)[torch.randperm(leaf.numel(), generator=generator)].view(leaf.shape)
        drawn = torch.randn(leaf.shape, generator=generator).to(leaf)
        return drawn * leaf.std(correction=0) + leaf.mean()

    while True:
        yield pytree.tree_map(other, (args, kwargs))


def _seeded(call: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return call()


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
