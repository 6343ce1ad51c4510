"""Tokens that GPUs execute, compared with what the plan's shares predict.

Axes: E experts, S slots, G GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from craftc.errors import VerificationFailed
from craftc.passes.analysis.profile_loads import count_tokens
from craftc.passes.rewriting.checking.output_comparison import hooked
from craftc.runtime.replicated_experts import ReplicatedExperts
from craftc.runtime.slot_table import SlotTable


@dataclass(frozen=True)
class RoutedTokens:
    """What the router of a layer chose while it was watched."""

    tokens_E: Tensor
    """Tokens per expert, int64."""
    calls: int
    """Calls of the layer."""


@contextmanager
def routed_tokens(model: nn.Module) -> Iterator[dict[str, RoutedTokens]]:
    """While inside, counts by layer name the experts chosen in every call of replicated experts."""
    routed: dict[str, RoutedTokens] = {}

    def count(module: ReplicatedExperts, args: tuple[Tensor, ...], output: Tensor) -> None:
        tokens_E = count_tokens(args[1], module.table.experts, None)
        before = routed.get(module.name, RoutedTokens(torch.zeros_like(tokens_E), 0))
        routed[module.name] = RoutedTokens(before.tokens_E + tokens_E, before.calls + 1)

    with hooked(model, count):
        yield routed


def token_deviation(
    name: str, table: SlotTable, counted_G: dict[int, int], routed: RoutedTokens, senders: int = 1
) -> float:
    """Largest |counted - predicted| tokens of a GPU in one layer, as a fraction of the mean GPU's tokens.

    routed: over all `senders`, the ranks that choose copies independently. In every call, each of them rounds the share
    of each copy of a replicated expert by less than a token. Raises VerificationFailed if a GPU is further off.
    """
    tokens_E = routed.tokens_E.tolist()
    worst = 0.0
    for gpu, counted in counted_G.items():
        held = [slot for slot in range(table.slots) if table.gpu_S[slot] == gpu]
        predicted = sum(table.share_S[slot] * tokens_E[table.expert_S[slot]] for slot in held)
        rounded = sum(table.copies_E[table.expert_S[slot]] > 1 for slot in held) * routed.calls * senders
        if abs(counted - predicted) > rounded + 1e-5 * sum(tokens_E):
            raise VerificationFailed(
                f"layer {name}: GPU {gpu} got {counted:,} tokens in {routed.calls} calls, the plan predicts "
                f"{predicted:,.1f} (rounding explains {rounded})"
            )
        worst = max(worst, abs(counted - predicted) * table.gpus / max(1, sum(tokens_E)))
    return worst
