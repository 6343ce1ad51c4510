"""Reads the routing of a block that fx cannot trace, or whose traced code is right for the example's sizes only.

The block's own code runs with stand-ins for its experts (`craftc.runtime.block_routing`); nothing is believed that is
not tried: the block must compute the same as its routing followed by its experts, on other tokens too.
Axes: T tokens, E experts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from craftc.errors import one_line
from craftc.passes.analysis.tracing.block_check import BlockCheck
from craftc.runtime.block_copy import BlockCopy, own_tensors, unshared
from craftc.runtime.block_passes import BlockPasses, Passes, TensorSource, is_function, weights_of
from craftc.runtime.block_routing import BlockRouting, leaves_of, rows_of, tensor_at
from craftc.runtime.module_list_experts import first_output


@dataclass(frozen=True, eq=False)
class BlockCall:
    """A block and one call of it."""

    block: nn.Module
    """With its weights."""
    experts: tuple[str, ...]
    """Paths of its experts in the block, in their order."""
    args: tuple[Any, ...]
    """Positional arguments of the call."""
    kwargs: dict[str, Any]
    """Keyword arguments of the call."""


class _CannotRead(Exception):
    """The condition that fails."""


def read_block(call: BlockCall) -> BlockRouting | str:
    """The block's routing, or the condition that it fails."""
    try:
        with torch.no_grad():
            return _read(call)
    except _CannotRead as error:
        return str(error)


def _read(call: BlockCall) -> BlockRouting:
    watched = _watch(call)
    width, extras = _expert_signature(watched)
    passes = BlockPasses(call.block, call.experts, width, extras)
    tensors = own_tensors(call.block, call.experts)
    try:
        found = passes.run({name: unshared(tensor) for name, tensor in tensors.items()}, call.args, call.kwargs)
    except Exception as error:
        raise _CannotRead(f"its block does not run with stand-ins for its experts: {one_line(error)}") from error
    leaf = _leaf_of_experts(found, width)
    rest_TH = rows_of(leaves_of(found.rest)[leaf])
    weight_TE = weights_of(rest_TH, [(experts, rows_of(leaves_of(output)[leaf])) for experts, output in found.marked])
    if not weight_TE.isfinite().all():
        raise _CannotRead("its block uses more than the first of the tensors that an expert returns")
    if (weight_TE != 0).all():
        raise _CannotRead(f"all {weight_TE.shape[1]} experts get every token: it has no routing that could be balanced")
    hidden = _hidden_source(call, found, watched, weight_TE)
    routing = BlockRouting(passes, tuple(tensors), hidden, leaf)
    routing.training = call.block.training
    if reason := BlockCheck(call.block, call.experts, routing, extras).why_not_equal(call.args, call.kwargs):
        raise _CannotRead(reason)
    return routing


@dataclass(frozen=True, eq=False)
class _ExpertCall:
    """One call of an expert by the block."""

    expert: int
    args: tuple[Any, ...]
    output: Any


def _watch(call: BlockCall) -> list[_ExpertCall]:
    """What the block's experts are given and return. Raises _CannotRead if the block cannot be run in a copy."""
    seen: list[_ExpertCall] = []
    try:
        copied = BlockCopy(call.block, call.experts)
        for number, expert in enumerate(copied.experts):
            copied.set_forward(expert, _Watching(number, expert, seen))
        tensors = dict(call.block.named_parameters()) | dict(call.block.named_buffers())
        before = [leaf._version for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        copied.run({name: unshared(tensor) for name, tensor in tensors.items()}, call.args, call.kwargs)
        after = [leaf._version for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    except Exception as error:
        raise _CannotRead(f"a copy of its block does not run: {one_line(error)}") from error
    if before != after:
        raise _CannotRead("its block writes in place into its own arguments")
    return seen


class _Watching:
    """An expert's forward that also notes its calls."""

    def __init__(self, number: int, expert: nn.Module, seen: list[_ExpertCall]) -> None:
        self.number, self.expert, self.seen = number, expert, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = type(self.expert).forward(self.expert, *args, **kwargs)
        self.seen.append(_ExpertCall(self.number, (*args, *kwargs.values()), output))
        return output


def _expert_signature(watched: Sequence[_ExpertCall]) -> tuple[int, int]:
    """Features of the experts' rows, and the number of outputs after the first."""
    if not watched:
        raise _CannotRead("none of its experts is called in a forward on the example inputs")
    for call in watched:
        output = first_output(call.output)
        if len(call.args) != 1 or not _is_float(call.args[0]):
            raise _CannotRead(
                f"expert {call.expert} is called with {len(call.args)} arguments, not with one tensor of tokens"
            )
        if not _is_float(output):
            raise _CannotRead(f"expert {call.expert} returns {type(output).__name__}, not a tensor of tokens")
        rows = call.args[0]
        if rows.shape[-1] != output.shape[-1]:
            raise _CannotRead(
                f"its experts map {rows.shape[-1]} features to {output.shape[-1]}; the experts ABI needs as many out "
                f"as in"
            )
        if rows.shape != output.shape:
            raise _CannotRead(f"expert {call.expert} returns {list(output.shape)} for rows {list(rows.shape)}")
    first = watched[0]
    return first.args[0].shape[-1], len(first.output) - 1 if isinstance(first.output, tuple) else 0


def _leaf_of_experts(found: Passes, width: int) -> int:
    """Position among the block's outputs of the only tensor that depends on its experts."""
    rest = leaves_of(found.rest)
    changed = sorted(
        {
            position
            for _, output in found.marked
            for position, (before, after) in enumerate(zip(rest, leaves_of(output), strict=True))
            if isinstance(before, Tensor) and not torch.equal(before, after)
        }
    )
    if len(changed) != 1:
        count = f"{len(changed)} of its block's {len(rest)} outputs depend"
        raise _CannotRead(f"{count} on what its experts return; exactly one tensor must")
    output = rest[changed[0]]
    if output.shape[-1] != width or not _is_float(output):
        raise _CannotRead(
            f"its block's output {list(output.shape)} does not have the {width} features of its experts' tokens"
        )
    return changed[0]


def _hidden_source(call: BlockCall, found: Passes, watched: Sequence[_ExpertCall], weight_TE: Tensor) -> TensorSource:
    """The module's output, argument or other tensor whose rows are the tokens that the experts are given."""
    given: dict[int, Tensor] = {}
    for seen in watched:
        rows = _fingerprints(rows_of(seen.args[0]))
        given[seen.expert] = torch.cat([given.get(seen.expert, rows), rows])
    used = [(expert, weight_TE[:, expert] != 0) for expert in range(weight_TE.shape[1])]
    lost = -1
    for source in _sources(found, call.args, call.kwargs):
        tensor = tensor_at(found, source, call.args, call.kwargs)
        if not _is_float(tensor) or not tensor.dim() or rows_of(tensor).shape[0] != weight_TE.shape[0]:
            continue
        rows_T = _fingerprints(rows_of(tensor))
        missing = (expert for expert, used_T in used if used_T.any() and not _all_in(rows_T[used_T], given.get(expert)))
        if (first := next(missing, None)) is None:
            return source
        lost = max(lost, first)
    raise _CannotRead(
        f"expert {max(lost, 0)} is called with rows that are neither rows of its block's arguments nor of one tensor "
        f"that the block computes"
    )


def _all_in(rows: Tensor, given: Tensor | None) -> bool:
    return given is not None and bool(torch.isin(rows, given).all())


def _sources(found: Passes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[TensorSource]:
    """All tensors that the block's other modules and torch functions returned, the last first, and its arguments.

    What modules return comes first: if the last one is dropout, it is the experts' input in training too.
    """
    modules = {call: output for call, output in found.returned.items() if not is_function(call[0])}
    functions = {call: output for call, output in found.returned.items() if is_function(call[0])}
    for (path, call), values in (*reversed(modules.items()), (("", 0), (args, kwargs)), *reversed(functions.items())):
        for leaf, value in enumerate(leaves_of(values)):
            if isinstance(value, Tensor):
                yield TensorSource(path, call, leaf)


def _fingerprints(rows_TH: Tensor) -> Tensor:
    """A number for every row, int64 `[T]`: equal rows have equal ones, on any device and in any order of summation."""
    positive_zeros = (rows_TH + 0.0).contiguous()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows_TH.element_size()]
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows_TH.shape[1],), generator=generator).to(rows_TH.device)
    return (positive_zeros.view(integers).to(torch.int64) * factors).sum(1)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
