"""Reads the routing of a block that fx cannot trace, or whose traced code is right for the example's sizes only.

The block's own code runs with stand-ins for its experts (`craftc.runtime.block_routing`); nothing is believed that is
not tried: the block must compute the same as its routing followed by its experts, on other tokens too.
Axes: T tokens, E experts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from craftc.errors import one_line
from craftc.passes.analysis.tracing.block_check import BlockCheck, random_calls
from craftc.passes.analysis.tracing.block_watch import BlockCall, CannotRead, Seen, fingerprints_of, is_float, watch
from craftc.runtime.block_copy import own_tensors, unshared
from craftc.runtime.block_passes import BlockPasses, Passes, TensorSource, is_function, weights_of
from craftc.runtime.block_recording import BlockRecording, RecordedBlock
from craftc.runtime.block_routing import BlockRouting, chosen, leaves_of, rows_of, tensor_at

NOT_ROUTED = "its block's routing is the same whatever its tokens are"
"""Why experts are not read whose block gets a buffer with places for every expert's tokens, or goes by positions."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a block was found to do."""

    block: BlockRouting | BlockRecording
    """Its part before its experts."""
    experts: nn.Module
    """Its experts, behind the experts ABI."""


def read_block(call: BlockCall) -> Read | str:
    """The block taken apart, or the condition that it fails.

    Its routing if its output is a weighted sum of its experts' outputs plus a rest; else its rows, recorded.
    """
    try:
        with torch.no_grad():
            seen = watch(call)
            try:
                return _routing(seen)
            except _NotRoutedHere:
                return NOT_ROUTED
            except CannotRead as error:
                return _recording(seen, str(error))
    except CannotRead as error:
        return str(error)


class _NotRoutedHere(Exception):
    """The block does not decide by its tokens."""


def _routing(seen: Seen) -> Read:
    call = seen.call
    passes = BlockPasses(call.block, seen.called, call.count, seen.width)
    tensors = own_tensors(call.block, call.experts)
    try:
        found = passes.run({name: unshared(tensor) for name, tensor in tensors.items()}, call.args, call.kwargs)
    except Exception as error:
        raise CannotRead(f"its block does not run with stand-ins for its experts: {one_line(error)}") from error
    leaf = _leaf_of_experts(found, seen.width)
    rest_TH = rows_of(leaves_of(found.rest)[leaf])
    weight_TE = weights_of(rest_TH, [(experts, rows_of(leaves_of(output)[leaf])) for experts, output in found.marked])
    if not weight_TE.isfinite().all():
        raise CannotRead("its block uses more than the first of the tensors that an expert returns")
    if (weight_TE != 0).all():
        raise CannotRead(f"all {weight_TE.shape[1]} experts get every token: it has no routing that could be balanced")
    routing = BlockRouting(passes, tuple(tensors), _hidden_source(seen, found, weight_TE), leaf)
    read = _checked(seen, routing)
    args, kwargs = next(random_calls(call.args, call.kwargs))
    _, index_TK, weight_TK, _ = routing(tuple(unshared(tensor) for tensor in tensors.values()), *args, **kwargs)
    if all(torch.equal(got, was) for got, was in zip((index_TK, weight_TK), chosen(weight_TE), strict=True)):
        raise _NotRoutedHere
    return read


def _recording(seen: Seen, reason: str) -> Read:
    """Raises CannotRead, with the `reason` that its routing cannot be read, if its rows cannot be recorded either."""
    given_E = [rows.sort().values for _, rows in sorted(seen.fingerprints().items())]
    if len(given_E) == seen.call.count and all(torch.equal(given, given_E[0]) for given in given_E):
        raise CannotRead(reason)  # nothing to balance
    names = tuple(own_tensors(seen.call.block, seen.call.experts))
    try:
        return _checked(seen, BlockRecording(RecordedBlock(seen.call.block, seen.called), names))
    except CannotRead:
        raise CannotRead(reason) from None


def _checked(seen: Seen, block: BlockRouting | BlockRecording) -> Read:
    call = seen.call
    block.training = call.block.training
    check = BlockCheck(call.block, seen.called, seen.experts, block)
    try:
        reason = check.why_not_equal(seen.watched[0].args[0], call.args, call.kwargs)
    except Exception as error:
        raise CannotRead(f"its block does not run on random tokens: {one_line(error)}") from error
    if reason is not None:
        raise CannotRead(reason)
    return Read(block, seen.experts)


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
        raise CannotRead(f"{count} on what its experts return; exactly one tensor must")
    output = rest[changed[0]]
    if output.shape[-1] != width or not is_float(output):
        raise CannotRead(
            f"its block's output {list(output.shape)} does not have the {width} features of its experts' tokens"
        )
    return changed[0]


def _hidden_source(seen: Seen, found: Passes, weight_TE: Tensor) -> TensorSource:
    """The module's output, argument or other tensor whose rows are the tokens that the experts are given."""
    call, given = seen.call, seen.fingerprints()
    used = [(expert, weight_TE[:, expert] != 0) for expert in range(weight_TE.shape[1])]
    lost = -1
    for source in _sources(found, call.args, call.kwargs):
        tensor = tensor_at(found, source, call.args, call.kwargs)
        if not is_float(tensor) or not tensor.dim() or rows_of(tensor).shape[0] != weight_TE.shape[0]:
            continue
        rows_T = fingerprints_of(rows_of(tensor))
        missing = (expert for expert, used_T in used if used_T.any() and not _all_in(rows_T[used_T], given.get(expert)))
        if (first := next(missing, None)) is None:
            return source
        lost = max(lost, first)
    raise CannotRead(
        f"expert {max(lost, 0)} is called with rows that are neither rows of its block's arguments nor of one tensor "
        f"that the block computes"
    )


def _all_in(rows: Tensor, given: Tensor | None) -> bool:
    return given is not None and bool(torch.isin(rows, given).all())


def _sources(found: Passes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[TensorSource]:
    """All tensors that the block's other modules returned, its arguments, and what torch functions returned.

    The last module comes first: if it is dropout, it is the experts' input in training too. The first function comes
    first: a later one may be a selection of rows that holds all of them only here.
    """
    modules = {call: output for call, output in found.returned.items() if not is_function(call[0])}
    functions = {call: output for call, output in found.returned.items() if is_function(call[0])}
    for (path, call), values in (*reversed(modules.items()), (("", 0), (args, kwargs)), *functions.items()):
        for leaf, value in enumerate(leaves_of(values)):
            if isinstance(value, Tensor):
                yield TensorSource(path, call, leaf)
