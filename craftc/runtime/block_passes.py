"""Which tokens a block gives to which experts, read from its own code while that runs with stand-ins for the experts.

A block whose output is `rest[t] + sum over e of W[t, e] * expert_e(hidden[t])` says everything in two passes: experts
that return zeros leave `rest`; experts that return a multiple of their own unit vector leave `rest + scale * W`.
Axes: T tokens, E experts, H hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from craftc.runtime.block_copy import BlockCopy, other_modules, unshared
from craftc.runtime.expert_calls import ExpertCalls

_SCALE = {torch.float16: 2.0**12, torch.float64: 2.0**400}
_FUNCTION = "function "
_WIDE_SCALE = 2.0**60
"""So large that `rest` is lost in the rounding of `scale * W`, which leaves every digit of W; a power of two."""


@dataclass(frozen=True)
class TensorSource:
    """A tensor that a block reads or makes on the way to its experts."""

    path: str
    """Path in the block of the module that returned it; `function` and a name if a torch function did; empty for an
    argument of the block."""
    call: int
    """Which call of this module or function returned it, counted from 0."""
    leaf: int
    """Its position among the tensors returned."""


class FunctionOutputs(TorchFunctionMode):
    """Keeps what torch functions return inside, for hidden states that are neither an argument nor a module's output.

    wanted: the only output to keep; None keeps all tensors with `width` features.
    """

    def __init__(self, wanted: TensorSource | None, width: int) -> None:
        super().__init__()
        self._wanted, self._width = wanted, width
        self._calls: Counter[str] = Counter()
        self.kept: dict[tuple[str, int], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = f"{_FUNCTION}{func.__name__}"
        call = self._calls[name]
        self._calls[name] += 1
        if self._wanted is not None:
            keeps = (name, call) == (self._wanted.path, self._wanted.call)
        else:
            keeps = isinstance(output, Tensor) and output.dim() > 0 and output.shape[-1] == self._width
        if keeps:
            self.kept[name, call] = output
        return output


@dataclass
class _Pass:
    """What stand-ins and the block's other modules share while a pass runs; emptied afterwards."""

    marked: range = range(0)
    """Experts whose stand-ins return their unit vectors; the others return zeros."""
    calls: Counter[str] = field(default_factory=Counter)
    """Calls so far, by module."""
    returned: dict[tuple[str, int], tuple[Any, list[float]]] = field(default_factory=dict)
    """What each call of a module returned in an earlier pass, with the versions of its tensors."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What a block returned."""

    rest: Any
    """Its output without its experts'."""
    marked: tuple[tuple[range, Any], ...]
    """Its outputs with unit vectors for some of its experts."""
    returned: dict[tuple[str, int], Any]
    """What calls of its other modules returned, and those of torch functions that were kept."""


class BlockPasses:
    """Runs a block with stand-ins for its experts: once with zeros, and once for every `width` experts."""

    def __init__(self, block: nn.Module, called: Mapping[str, ExpertCalls], experts: int, width: int) -> None:
        """called: the modules in the block that hold experts, by path, and what their calls mean; experts: their
        number; width: number of features that the experts map to as many."""
        self._copy = BlockCopy(block, tuple(called))
        self._pass = _Pass()
        self.width = width
        self.experts = experts
        for module, calls in zip(self._copy.experts, called.values(), strict=True):
            self._copy.set_forward(module, _StandIn(calls, self._pass))
        for path, module in other_modules(self._copy.block, tuple(called)):
            if "forward" not in vars(module):
                self._copy.set_forward(module, _Remembering(path, module, self._pass))

    def train(self, mode: bool) -> None:
        """Like nn.Module.train."""
        self._copy.block.train(mode)

    def run(
        self,
        tensors: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wanted: TensorSource | None = None,
    ) -> Passes:
        """All passes, on the block's own `tensors`: the same random numbers in each; buffers change in the first.

        wanted: what must be among the outputs returned; None keeps what could be hidden states.
        """
        before = {name: unshared(tensor) for name, tensor in tensors.items()}
        draw_again = same_random_numbers((args, kwargs))
        try:
            functions = FunctionOutputs(wanted, self.width)
            with nullcontext() if wanted and not is_function(wanted.path) else functions:
                rest = self._copy.run(tensors, args, kwargs)
            returned = {call: output for call, (output, _) in self._pass.returned.items()} | functions.kept
            marked = []
            for first in range(0, self.experts, self.width):
                self._pass.marked = range(first, min(first + self.width, self.experts))
                self._pass.calls.clear()
                draw_again()
                again = {name: unshared(tensor) for name, tensor in before.items()}
                marked.append((self._pass.marked, self._copy.run(again, args, kwargs)))
            return Passes(rest, tuple(marked), returned)
        finally:
            self._pass.marked = range(0)
            self._pass.calls.clear()
            self._pass.returned.clear()


def is_function(path: str) -> bool:
    """Whether the path of a TensorSource names a torch function."""
    return path.startswith(_FUNCTION)


def weights_of(rest_TH: Tensor, marked: Sequence[tuple[range, Tensor]]) -> Tensor:
    """`W [T, E]`: the factor of every expert's output in every token's; 0 where it has no part in it."""
    scale = _SCALE.get(rest_TH.dtype, _WIDE_SCALE)
    return torch.cat([(marked_TH - rest_TH)[:, : len(experts)] / scale for experts, marked_TH in marked], 1)


class _StandIn:
    """The forward of a stand-in for experts: zeros, or a multiple of its expert's unit vector, for every row."""

    def __init__(self, calls: ExpertCalls, shared: _Pass) -> None:
        self.calls, self.shared = calls, shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        rows_PH, expert_P = self.calls.rows(given)
        output_PH, marked = torch.zeros_like(rows_PH), self.shared.marked
        if marked:
            scale_P = ((expert_P >= marked.start) & (expert_P < marked.stop)).to(rows_PH.dtype)
            feature_P = (expert_P - marked.start).clamp(0, len(marked) - 1)
            output_PH.scatter_(1, feature_P[:, None], scale_P[:, None] * _SCALE.get(rows_PH.dtype, _WIDE_SCALE))
        return self.calls.output(given, output_PH)


class _Remembering:
    """The forward of another module of the block: later passes, which call it with the same arguments, get the output
    of the first. In training it runs every time, because it may draw random numbers."""

    def __init__(self, path: str, module: nn.Module, shared: _Pass) -> None:
        self.path, self.module, self.shared = path, module, shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.path, self.shared.calls[self.path]
        self.shared.calls[self.path] += 1
        if not self.module.training and call in self.shared.returned:
            output, versions = self.shared.returned[call]
            if versions == versions_of(output):  # else it was written to
                return output
        output = type(self.module).forward(self.module, *args, **kwargs)
        self.shared.returned.setdefault(call, (output, versions_of(output)))
        return output


def versions_of(output: Any) -> list[float]:
    """Grow with every write in place; NaN, which equals nothing, for tensors of inference mode, which have none."""
    tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return [float("nan") if tensor.is_inference() else tensor._version for tensor in tensors]


def same_random_numbers(values: Any) -> Callable[[], None]:
    """A function that sets the random number generators back to where they are now."""
    devices = {leaf.device for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_cuda}
    cpu, others = torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in devices}

    def draw_again() -> None:
        torch.set_rng_state(cpu)
        for device, state in others.items():
            torch.cuda.set_rng_state(state, device)

    return draw_again
