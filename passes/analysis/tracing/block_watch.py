"""What a block gives its experts, watched in one call of a copy of it.

Axes: T tokens, E experts, H hidden size, P rows given to experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from craftc.errors import one_line
from craftc.runtime.adapted_module import UnweightedExpert
from craftc.runtime.block_copy import BlockCopy, unshared
from craftc.runtime.block_passes import FunctionOutputs
from craftc.runtime.expert_calls import ExpertCalls, OneExpert, OneWeighingExpert, StackedCalls, stacked_calls
from craftc.runtime.local_experts import run_rows
from craftc.runtime.module_list_experts import ModuleListExperts, first_output
from craftc.runtime.stacked_experts import StackedExperts


class CannotRead(Exception):
    """The condition that a block fails."""


@dataclass(frozen=True, eq=False)
class BlockCall:
    """A block and one call of it."""

    block: nn.Module
    """With its weights."""
    experts: tuple[str, ...]
    """Paths of the modules in the block that hold experts: one for each, in their order, or one for all."""
    count: int
    """Number of experts."""
    args: tuple[Any, ...]
    """Positional arguments of the call."""
    kwargs: dict[str, Any]
    """Keyword arguments of the call."""


@dataclass(frozen=True, eq=False)
class ExpertCall:
    """One call of a module that holds experts."""

    module: int
    """Its number among these modules."""
    args: tuple[Any, ...]
    output: Any


@dataclass(frozen=True, eq=False)
class Seen:
    """A call of a block, and what its experts were seen to be given."""

    call: BlockCall
    watched: tuple[ExpertCall, ...]
    """In their order."""
    called: Mapping[str, ExpertCalls]
    """The modules that hold experts, by path, and what their calls mean."""
    width: int
    """Features of the experts' rows."""
    experts: nn.Module
    """The experts behind the experts ABI."""

    def fingerprints(self) -> dict[int, Tensor]:
        """Of the rows that every expert was given."""
        calls = tuple(self.called.values())
        rows, experts = zip(*(calls[seen.module].rows(seen.args) for seen in self.watched), strict=True)
        prints_P, expert_P = torch.cat([fingerprints_of(rows_PH) for rows_PH in rows]), torch.cat(experts)
        return {expert: prints_P[expert_P == expert] for expert in expert_P.unique().tolist()}


def watch(call: BlockCall) -> Seen:
    """Raises CannotRead if the block cannot be run in a copy, or calls its experts in a way that is not known."""
    watched: list[ExpertCall] = []
    try:
        copied = BlockCopy(call.block, call.experts)
        for number, module in enumerate(copied.experts):
            copied.set_forward(module, _Watching(number, module, watched))
        tensors = dict(call.block.named_parameters()) | dict(call.block.named_buffers())
        before = [leaf._version for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        with FunctionOutputs(None, 0):  # as in the passes, in which torch takes no shortcuts that round differently
            copied.run({name: unshared(tensor) for name, tensor in tensors.items()}, call.args, call.kwargs)
        after = [leaf._version for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    except Exception as error:
        raise CannotRead(f"a copy of its block does not run: {one_line(error)}") from error
    if before != after:
        raise CannotRead("its block writes in place into its own arguments")
    if not watched:
        raise CannotRead("none of its experts is called in a forward on the example inputs")
    modules = [call.block.get_submodule(path) for path in call.experts]
    if len(modules) == call.count:
        width, extras = _expert_signature(watched)
        called: dict[str, ExpertCalls]
        if len(watched[0].args) == 1:
            called = {path: OneExpert(number, extras) for number, path in enumerate(call.experts)}
        else:
            called = {path: OneWeighingExpert(number) for number, path in enumerate(call.experts)}
            modules = [UnweightedExpert(module, watched[0].args[1].dim()) for module in modules]
        return Seen(call, tuple(watched), called, width, ModuleListExperts(modules))
    calls = _stacked_signature(watched, call.count)
    experts = StackedExperts(modules[0], calls, call.count)
    _check_rowwise(experts, *calls.rows(watched[0].args))
    return Seen(call, tuple(watched), {call.experts[0]: calls}, watched[0].args[0].shape[-1], experts)


def _stacked_signature(watched: Sequence[ExpertCall], experts: int) -> StackedCalls:
    """What the calls of a module with stacked parameters mean. Raises CannotRead if that is not known."""
    given, output = watched[0].args, watched[0].output
    calls = stacked_calls(given, output, experts)
    if calls is None:
        shapes = ", ".join(_describe(argument) for argument in given)
        raise CannotRead(
            f"its experts are called with ({shapes}) and return {_describe(output)}: neither buffers [E, C, H], nor "
            f"sorted rows with their counts, nor tokens with indices"
        )
    return calls


class _Watching:
    """The forward of a module that holds experts, which also notes its calls."""

    def __init__(self, number: int, module: nn.Module, seen: list[ExpertCall]) -> None:
        self.number, self.module, self.seen = number, module, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = type(self.module).forward(self.module, *args, **kwargs)
        self.seen.append(ExpertCall(self.number, (*args, *kwargs.values()), output))
        return output


def _expert_signature(watched: Sequence[ExpertCall]) -> tuple[int, int]:
    """Features of the experts' rows, and the number of outputs after the first."""
    for call in watched:
        output = first_output(call.output)
        if not is_float(call.args[0]) or not (len(call.args) == 1 or _are_weights(call.args)):
            raise CannotRead(
                f"expert {call.module} is called with {len(call.args)} arguments, not with one tensor of tokens (and "
                f"their weights)"
            )
        if not is_float(output):
            raise CannotRead(f"expert {call.module} returns {type(output).__name__}, not a tensor of tokens")
        rows = call.args[0]
        if rows.shape[-1] != output.shape[-1]:
            raise CannotRead(
                f"its experts map {rows.shape[-1]} features to {output.shape[-1]}; the experts ABI needs as many out "
                f"as in"
            )
        if rows.shape != output.shape:
            raise CannotRead(f"expert {call.module} returns {list(output.shape)} for rows {list(rows.shape)}")
    first = watched[0]
    return first.args[0].shape[-1], len(first.output) - 1 if isinstance(first.output, tuple) else 0


def _are_weights(args: Sequence[Any]) -> bool:
    """Whether the second of two arguments has a number for each of the rows in the first."""
    rows = args[0]
    return (
        len(args) == 2 and rows.dim() == 2 and is_float(args[1]) and args[1].shape in (rows.shape[:1], (len(rows), 1))
    )


def _check_rowwise(experts: StackedExperts, rows_PH: Tensor, expert_P: Tensor) -> None:
    """Raises CannotRead unless every other expert, alone with its rows in another order, makes the same of them."""
    chosen = tuple(range(0, experts.num_experts, 2))
    here = (expert_P % 2 == 0).nonzero()[:, 0].flip(0)
    try:
        expected_PH = run_rows(experts, rows_PH, expert_P, rows_PH.dtype)[here]
        got_PH = run_rows(experts.select_experts(chosen), rows_PH[here], expert_P[here] // 2, rows_PH.dtype)
    except Exception as error:
        raise CannotRead(f"its experts do not run on some of their rows: {one_line(error)}") from error
    difference = float((got_PH - expected_PH).abs().amax()) if len(here) else 0.0
    allowed = torch.finfo(rows_PH.dtype).eps ** 0.5 * max(1.0, float(expected_PH.abs().amax()) if len(here) else 0.0)
    if not difference <= allowed:
        raise CannotRead(
            f"its experts do not map every row by itself: half of them, with their rows only, differ by "
            f"{difference:.1e}, {allowed:.1e} allowed"
        )


def fingerprints_of(rows_TH: Tensor) -> Tensor:
    """A number for every row, int64 `[T]`: equal rows have equal ones, on any device and in any order of summation."""
    positive_zeros = (rows_TH + 0.0).contiguous()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows_TH.element_size()]
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows_TH.shape[1],), generator=generator).to(rows_TH.device)
    return (positive_zeros.view(integers).to(torch.int64) * factors).sum(1)


def _describe(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def is_float(value: object) -> bool:
    """Whether it is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
