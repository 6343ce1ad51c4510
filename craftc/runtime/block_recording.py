"""The rows that a block gives its experts, recorded; and the block run again on what the experts make of them.

For blocks whose output is not a weighted sum of the experts' outputs plus a rest: a norm or a projection follows the
sum, outputs are combined as logarithms, or rows are scaled before the experts. The combination stays the block's own.
Axes: P rows given to experts, E experts, H hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from craftc.runtime.block_copy import BlockCopy, other_modules, unshared
from craftc.runtime.block_passes import same_random_numbers, versions_of
from craftc.runtime.expert_calls import ExpertCalls

_NONE = torch.empty(0, dtype=torch.int64)


@dataclass(eq=False)
class Recording:
    """What a block did until it needed its experts' outputs."""

    rows: list[Tensor] = field(default_factory=list)
    """The rows `[P, H]` of each call of its experts, in order."""
    experts: list[Tensor] = field(default_factory=list)
    """The expert of each row, int64 `[P]`, call by call."""
    returned: dict[tuple[str, int], tuple[Any, list[float]]] = field(default_factory=dict)
    """What the block's other modules returned before the first of these calls, so that they need not run again, with
    the versions of its tensors."""
    kept: Tensor = _NONE
    """The rows among all that experts must compute, int64."""
    kept_of: Tensor = _NONE
    """For every row, int64, the position in `kept` of itself, or of one that gets the same."""
    draw_again: Callable[[], None] = lambda: None
    """Sets the random number generators back to where the block began."""


class RecordedBlock:
    """A copy of a block whose experts return zeros, or what they are told to."""

    def __init__(self, block: nn.Module, called: Mapping[str, ExpertCalls]) -> None:
        """called: the modules in the block that hold experts, by path, and what their calls mean."""
        self._copy = BlockCopy(block, tuple(called))
        self._calls: Counter[str] = Counter()
        self._recording = Recording()
        self._outputs: list[Tensor] | None = None
        for module, calls in zip(self._copy.experts, called.values(), strict=True):
            self._copy.set_forward(module, _Experts(calls, self))
        for path, module in other_modules(self._copy.block, tuple(called)):
            self._copy.set_forward(module, _Other(path, module, self))

    def train(self, mode: bool) -> None:
        """Like nn.Module.train."""
        self._copy.block.train(mode)

    def record(self, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recording:
        """The block's calls of its experts; its own `tensors` stay as they are."""
        recording = Recording(draw_again=same_random_numbers((args, kwargs)))
        self._run(recording, None, {name: unshared(tensor) for name, tensor in tensors.items()}, args, kwargs)
        return recording

    def replay(
        self,
        recording: Recording,
        outputs: Sequence[Tensor],
        tensors: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The block's output if its experts make `outputs` of the rows of their calls."""
        if self._copy.block.training:  # what it draws for its router must be the same; in eval mode it draws nothing
            recording.draw_again()
        return self._run(recording, list(outputs), tensors, args, kwargs)

    def experts_output(self, calls: ExpertCalls, given: Sequence[Any]) -> Any:
        """What a call of experts returns in the pass that runs."""
        if self._outputs is not None:
            return calls.output(given, self._outputs.pop(0))
        rows_PH, expert_P = calls.rows(given)
        self._recording.rows.append(rows_PH)
        self._recording.experts.append(expert_P)
        return calls.output(given, torch.zeros_like(rows_PH))

    def other_output(self, path: str, run: Callable[[], Any]) -> Any:
        """What a call of another module returns: in the second pass what it did in the first, if no expert had run."""
        call = path, self._calls[path]
        self._calls[path] += 1
        if self._outputs is not None and call in self._recording.returned:
            output, versions = self._recording.returned[call]
            if versions == versions_of(output):  # else it was written to
                return output
        output = run()
        if self._outputs is None and not self._recording.rows and not self._copy.block.training:
            self._recording.returned[call] = output, versions_of(output)
        return output

    def _run(
        self,
        recording: Recording,
        outputs: list[Tensor] | None,
        tensors: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._recording, self._outputs = recording, outputs
        self._calls.clear()
        try:
            return self._copy.run(tensors, args, kwargs)
        finally:
            self._recording, self._outputs = Recording(), None


@dataclass(frozen=True, eq=False)
class _Experts:
    """The forward of a stand-in for experts."""

    calls: ExpertCalls
    block: RecordedBlock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.block.experts_output(self.calls, (*args, *kwargs.values()))


@dataclass(frozen=True, eq=False)
class _Other:
    """The forward of another module of the block."""

    path: str
    module: nn.Module
    block: RecordedBlock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = type(self.module).forward
        return self.block.other_output(self.path, lambda: run(self.module, *args, **kwargs))


class BlockRecording(nn.Module):
    """The rows that a block gives its experts, as the experts ABI wants them: one expert per row, with weight 1."""

    def __init__(self, block: RecordedBlock, tensor_names: tuple[str, ...]) -> None:
        super().__init__()
        self.block = block
        self.tensor_names = tensor_names

    def train(self, mode: bool = True) -> BlockRecording:
        self.block.train(mode)
        return super().train(mode)

    def forward(
        self, tensors: tuple[Tensor, ...], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor, Recording]:
        """`hidden [P, H]`, `indices [P, 1]` int64, `weights [P, 1]`, and what `BlockReplay` needs. tensors: the block's
        own, in the order of `tensor_names`."""
        found = self.block.record(dict(zip(self.tensor_names, tensors, strict=True)), args, kwargs)
        hidden_PH, expert_P = torch.cat(found.rows), torch.cat(found.experts)
        found.kept, found.kept_of = _without_equal_zeros(hidden_PH, expert_P)
        hidden_PH, expert_P = hidden_PH[found.kept], expert_P[found.kept]
        return hidden_PH, expert_P[:, None], hidden_PH.new_ones(len(expert_P), 1), found

    def with_experts(
        self, experts: nn.Module, tensors: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor]:
        """See `BlockReading`."""
        hidden_PH, index_P1, weight_P1, found = self(tensors, *args, **kwargs)
        replay = BlockReplay(self.block, self.tensor_names)
        return replay(tensors, found, experts(hidden_PH, index_P1, weight_P1), *args, **kwargs), index_P1


class BlockReplay(nn.Module):
    """The block's output from what its experts made of the recorded rows."""

    def __init__(self, block: RecordedBlock, tensor_names: tuple[str, ...]) -> None:
        super().__init__()
        self.block = block
        self.tensor_names = tensor_names

    def train(self, mode: bool = True) -> BlockReplay:
        self.block.train(mode)
        return super().train(mode)

    def forward(
        self, tensors: tuple[Tensor, ...], found: Recording, output_PH: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """tensors: as for `BlockRecording`; output_PH: the experts' outputs for its rows."""
        outputs = output_PH[found.kept_of].split([len(rows_PH) for rows_PH in found.rows])
        return self.block.replay(found, outputs, dict(zip(self.tensor_names, tensors, strict=True)), args, kwargs)


def _without_equal_zeros(rows_PH: Tensor, expert_P: Tensor) -> tuple[Tensor, Tensor]:
    """`kept` and `kept_of`: of the rows of zeros of every expert (empty places in its buffer, tokens that a router
    scaled to nothing) only the first is computed. All of them if gradients are needed: those of equal rows differ."""
    position_P = torch.arange(len(expert_P), device=expert_P.device)
    if rows_PH.requires_grad or not len(expert_P):
        return position_P, position_P
    zero_P = (rows_PH == 0).all(1)
    first_E = torch.full((int(expert_P.max()) + 1,), len(expert_P), device=expert_P.device)
    first_E = first_E.scatter_reduce(0, expert_P[zero_P], position_P[zero_P], "amin")
    kept, kept_of = torch.where(zero_P, first_E[expert_P], position_P).unique(return_inverse=True)
    return kept, kept_of
