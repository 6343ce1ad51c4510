"""Loads of a model's first calls, counted where its MoE layers are called.

Axes: S steps (calls of the model), L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = dict[str, Tensor]
"""Layer name to token counts, int64 `[E]`, of one call of the model."""


class CallCounter:
    """Counts until `calls` calls of the model are complete, and passes the counts on when the next call begins.

    A new call of the model begins when a layer is called that the current call has already had.
    """

    def __init__(self, calls: int, hand_over: Callable[[tuple[Step, ...]], None]) -> None:
        self._calls = calls
        self._hand_over = hand_over
        self._steps: list[Step] = []
        self._current: Step = {}

    def count(self, name: str, tokens_E: Tensor) -> None:
        """Record that layer `name` is about to route `tokens_E`, int64 `[E]`."""
        if name in self._current:
            self._steps.append(self._current)
            self._current = {}
        if len(self._steps) < self._calls:
            self._current[name] = tokens_E
            return
        self._hand_over(tuple(self._steps))


def stack_steps(steps: tuple[Step, ...], layers: tuple[str, ...]) -> Tensor:
    """Counts `[S, L, E]`; zeros for layers that a step did not call, and for experts that a layer does not have.

    The first step has called all layers.
    """
    most = max(len(steps[0][name]) for name in layers)
    none = next(iter(steps[0].values())).new_zeros(0)
    return torch.stack([torch.stack([_padded(step.get(name, none), most) for name in layers]) for step in steps])


def _padded(tokens_E: Tensor, experts: int) -> Tensor:
    return torch.nn.functional.pad(tokens_E, (0, experts - len(tokens_E)))
