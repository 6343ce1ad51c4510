"""Dispatchers for one process that stands for all GPUs.

Axes: T tokens, K experts per token, H hidden size, S slots in GPU order, P = T x K (token, expert) pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from craftc.runtime.dispatcher import Dispatcher
from craftc.runtime.local_experts import local_experts, run_rows, weighted_sum
from craftc.runtime.slot_table import SlotTable, with_no_expert


class VirtualDispatcher(Dispatcher):
    """Executes the shares of all GPUs in one call of the experts module.

    In one process the copies of an expert are the same numbers, so they are one tensor: replicas cost no memory and no
    time here, and tokens are still counted slot by slot. `InTurnDispatcher` keeps the GPUs separate.
    """

    def __init__(self, table: SlotTable):
        super().__init__()
        self.counted_slots = range(table.slots)
        experts = torch.tensor(with_no_expert(table).expert_S, device="cpu")
        self.register_buffer("expert_S", experts, persistent=False)

    expert_S: Tensor
    """Expert of every slot; last that of slot S, "no expert"."""

    def forward(
        self, experts: nn.Module, hidden_TH: Tensor, slot_TK: Tensor, weight_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        return experts(hidden_TH, self.expert_S[slot_TK], weight_TK), count_per_slot(slot_TK, self.expert_S)[:-1]


class InTurnDispatcher(Dispatcher):
    """Executes one GPU after the other, each with its own copies and only the tokens sent to it, just like real ranks.

    Slower than `VirtualDispatcher`; used to verify a rewrite. Only one GPU's copies exist at a time.
    """

    def __init__(self, table: SlotTable):
        super().__init__()
        self.table = table
        self.counted_slots = range(table.slots)
        self.register_buffer("gpu_S", torch.tensor(with_no_expert(table).gpu_S, device="cpu"), persistent=False)

    gpu_S: Tensor
    """GPU of every slot; last that of slot S, which is none."""

    def forward(
        self, experts: nn.Module, hidden_TH: Tensor, slot_TK: Tensor, weight_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        pairs_of_gpu = self.gpu_S[slot_TK].reshape(-1)
        slot_P = slot_TK.reshape(-1)
        # Rows with an expert are overwritten below; those without stay zero.
        output_PH = hidden_TH.repeat_interleave(slot_TK.shape[1], 0)
        output_PH = output_PH.masked_fill((pairs_of_gpu == self.table.gpus)[:, None], 0.0)
        tokens_S = torch.zeros_like(self.gpu_S)
        for gpu in range(self.table.gpus):
            pair = torch.nonzero(pairs_of_gpu == gpu).squeeze(1)
            if not len(pair):
                continue
            own = local_experts(experts, self.table.experts_of(gpu))
            local = slot_P[pair] - self.table.first_slot(gpu)
            rows = run_rows(own, hidden_TH[pair // slot_TK.shape[1]], local, weight_TK.dtype)
            output_PH = output_PH.index_copy(0, pair, rows)
            tokens_S = tokens_S + count_per_slot(slot_P[pair], self.gpu_S)
        return weighted_sum(output_PH, weight_TK, hidden_TH.dtype), tokens_S[:-1]


def count_per_slot(slot: Tensor, like_S: Tensor) -> Tensor:
    """Occurrences of every slot number in `slot`, int64 shaped like `like_S`; without a host synchronisation."""
    flat = slot.reshape(-1)
    return torch.zeros_like(like_S, dtype=torch.int64).scatter_add_(0, flat, torch.ones_like(flat))
