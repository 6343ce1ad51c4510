"""The dispatcher for real ranks: torch.distributed, gloo on CPUs and NCCL on GPUs. Rank r is the plan's GPU r.

Axes: T tokens of this rank, K experts per token, H hidden size, P = T x K (token, expert) pairs, S slots of all ranks
in GPU order, C slots of this rank, W ranks, R rows this rank receives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from craftc.runtime.dispatcher import Dispatcher
from craftc.runtime.exchange import exchange_counts, exchange_rows
from craftc.runtime.local_experts import run_rows, weighted_sum
from craftc.runtime.rank_group import RankGroup
from craftc.runtime.slot_table import SlotTable
from craftc.runtime.virtual import count_per_slot


class C10dDispatcher(Dispatcher):
    """Every rank sends each of its (token, expert) pairs to the rank of the chosen slot and gets the output back.

    `experts` is the module over this rank's own slots. One host synchronisation per call, for the row counts.
    Ranks may have different numbers of tokens, or none. All ranks of the group must call it together.
    """

    def __init__(self, table: SlotTable, group: RankGroup, name: str):
        super().__init__()
        first = table.first_slot(group.rank)
        self.counted_slots = range(first, first + table.slots_per_gpu_G[group.rank])
        self.table = table
        self.group = group
        self.name = name
        self.register_buffer("gpu_S", torch.tensor(table.gpu_S, device="cpu"), persistent=False)
        own = torch.arange(len(self.counted_slots), device="cpu").repeat(group.size)
        self.register_buffer("local_WC", own, persistent=False)

    gpu_S: Tensor
    local_WC: Tensor

    def forward(
        self, experts: nn.Module, hidden_TH: Tensor, slot_TK: Tensor, weight_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        received_RH, local_R, tokens_C, way_back = self.dispatch(hidden_TH, slot_TK)
        output_RH = self.compute(experts, received_RH, local_R, weight_TK.dtype)
        return self.combine(output_RH, weight_TK, hidden_TH.dtype, way_back), tokens_C

    def dispatch(self, hidden_TH: Tensor, slot_TK: Tensor) -> tuple[Tensor, Tensor, Tensor, WayBack]:
        """This rank's rows `[R, H]` with their local slots `[R]`, its tokens per slot `[C]`, and the way back."""
        slot_P = slot_TK.reshape(-1)
        order_P = torch.argsort(slot_P, stable=True)  # by slot, and so by rank; last, slot S, is "no expert"
        sent_S = count_per_slot(slot_P, torch.nn.functional.pad(self.gpu_S, (0, 1)))[:-1]
        what = f"exchange of token counts in layer {self.name}"
        received_WC = exchange_counts(sent_S, self.table.slots_per_gpu_G, len(self.counted_slots), self.group, what)
        sent_W = torch.zeros_like(sent_S[: self.group.size]).scatter_add_(0, self.gpu_S, sent_S)
        sent, received = torch.stack([sent_W, received_WC.sum(1)]).tolist()  # the one host synchronisation
        order_P = order_P[: sum(sent)]
        rows_PH = hidden_TH[order_P // slot_TK.shape[1]]
        rows_RH = exchange_rows(rows_PH, sent, received, self.group, f"dispatch of tokens in layer {self.name}")
        local_R = torch.repeat_interleave(self.local_WC, received_WC.reshape(-1), output_size=sum(received))
        return rows_RH, local_R, received_WC.sum(0), WayBack(order_P, sent, received)

    def compute(self, experts: nn.Module, rows_RH: Tensor, local_R: Tensor, weight_dtype: torch.dtype) -> Tensor:
        """Unweighted outputs `[R, H]` of this rank's slots.

        A rank without rows runs one row of zeros, which nobody receives: so the experts' code need not handle empty
        inputs, and all ranks make the same exchanges in backward; without that, they would wait for each other.
        """
        if not len(self.counted_slots):
            return rows_RH
        if len(local_R):
            return run_rows(experts, rows_RH, local_R, weight_dtype)
        padded_1H = torch.cat([rows_RH, rows_RH.new_zeros(1, rows_RH.shape[1])])
        return run_rows(experts, padded_1H, local_R.new_zeros(1), weight_dtype)[:0]

    def combine(self, output_RH: Tensor, weight_TK: Tensor, dtype: torch.dtype, way_back: WayBack) -> Tensor:
        """Weighted sums `[T, H]` of the outputs that come back for this rank's pairs."""
        what = f"return of outputs in layer {self.name}"
        sorted_PH = exchange_rows(output_RH, way_back.received_W, way_back.sent_W, self.group, what)
        output_PH = sorted_PH.new_zeros(weight_TK.numel(), sorted_PH.shape[1])
        output_PH = output_PH.index_copy(0, way_back.order_P, sorted_PH)
        return weighted_sum(output_PH, weight_TK, dtype)


@dataclass(frozen=True, eq=False)
class WayBack:
    """What `combine` needs to undo `dispatch`."""

    order_P: Tensor
    """The pairs (t x K + k) that were sent, in their order."""
    sent_W: list[int]
    """Number of rows sent to each rank."""
    received_W: list[int]
    """Number of rows received from each rank."""
