"""The contract of a dispatcher.

Axes: T tokens, K experts per token, H hidden size, C slots counted here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Dispatcher(nn.Module, ABC):
    """Carries tokens to the slots that serve them and results back; the only part that knows where slots are."""

    counted_slots: range
    """Slots (numbers in GPU order) whose tokens `forward` counts: those that this process executes, C of them."""

    @abstractmethod
    def forward(
        self, experts: nn.Module, hidden_TH: Tensor, slot_TK: Tensor, weight_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the chosen slots' outputs, `[T, H]`, and tokens executed per counted slot, int64 `[C]`.

        `experts` is the module over the slots (or, in one process, the experts) that this dispatcher executes.
        """
