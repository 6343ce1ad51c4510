"""Rows to other ranks and back: one all-to-all with uneven splits, differentiable.

Plain c10d inside an autograd function of our own; functional collectives would import torch._dynamo (slow, and it makes
gloo abort at exit). Axes: W ranks of the group, P rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from craftc.errors import RankFailed
from craftc.runtime.rank_group import RankGroup


def exchange_rows(
    rows: Tensor, sent_W: Sequence[int], received_W: Sequence[int], group: RankGroup, what: str
) -> Tensor:
    """`[sum(received_W), ...]`: `sent_W[w]` consecutive rows go to rank w, `received_W[w]` come from it, in rank order.

    Gradients travel back the same way. `what` names the exchange in errors. Raises RankFailed if another rank is gone.
    """
    return _ExchangeRows.apply(rows, tuple(sent_W), tuple(received_W), group, what)


def exchange_counts(counts: Tensor, sent_W: Sequence[int], received: int, group: RankGroup, what: str) -> Tensor:
    """Like `exchange_rows`, but for integers; `received` of them come from every rank: int64 `[W, received]`."""
    output = counts.new_empty(group.size * received)
    with rank_failures(group, what):
        dist.all_to_all_single(output, counts, [received] * group.size, list(sent_W), group=group.process_group)
    return output.view(group.size, received)


@contextmanager
def rank_failures(group: RankGroup, what: str) -> Iterator[None]:
    """Turn the failure of a collective inside into RankFailed, with `what` as the name of the exchange."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RankFailed(
            f"rank {group.rank} of {group.size}: {what} failed; another rank raised, was killed, or did not answer "
            f"within the time-out of the process group ({reason})"
        ) from error


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sent_W: tuple[int, ...], received_W: tuple[int, ...], group: RankGroup, what: str
    ) -> Tensor:
        ctx.exchange = (received_W, sent_W, group, f"gradients of {what}")
        return _all_to_all(rows, sent_W, received_W, group, what)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _all_to_all(gradients[0], *ctx.exchange), None, None, None, None


def _all_to_all(rows: Tensor, sent_W: Sequence[int], received_W: Sequence[int], group: RankGroup, what: str) -> Tensor:
    output = rows.new_empty((sum(received_W), *rows.shape[1:]))
    with rank_failures(group, what):
        dist.all_to_all_single(output, rows.contiguous(), list(received_W), list(sent_W), group=group.process_group)
    return output
