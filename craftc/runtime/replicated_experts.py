"""The module that replaces an experts module: it holds a plan's copies and runs the model's own code on them.

Axes: T tokens, K experts per token, H hidden size, S slots in GPU order over all GPUs, C slots that are counted here.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.c10d import C10dDispatcher
from craftc.runtime.copy_choice import CopyRule, copy_choice
from craftc.runtime.dispatcher import Dispatcher
from craftc.runtime.local_experts import local_experts, zero_experts
from craftc.runtime.rank_group import RankGroup
from craftc.runtime.slot_table import SlotTable, slot_table
from craftc.runtime.virtual import VirtualDispatcher


class ReplicatedExperts(nn.Module):
    """Drop-in for an experts module: `forward(hidden [T,H], top_k_index [T,K], top_k_weights [T,K]) -> [T,H]`.

    `hidden` may have several dims before H, whose product is T; the output has its shape.

    For every (token, expert) pair `choice` picks one copy and `dispatcher` has it executed by `experts`, the model's
    own experts module over the slots that this process holds. Executed tokens are counted per slot in `tokens_C`.
    Tables and counters are on the device of `experts`, or on the CPU while `experts` has no weights.
    """

    def __init__(self, experts: nn.Module, choice: nn.Module, dispatcher: Dispatcher, table: SlotTable, name: str):
        super().__init__()
        self.experts = experts
        self.choice = choice
        self.dispatcher = dispatcher
        self.table = table
        self.name = name
        device = _device_of(experts)
        choice.to(device)
        dispatcher.to(device)
        counters = torch.zeros(len(dispatcher.counted_slots), dtype=torch.int64, device=device)
        self.register_buffer("tokens_C", counters, persistent=False)
        self.has_zero_experts = zero_experts(experts) > 0

    experts: nn.Module
    choice: nn.Module
    dispatcher: Dispatcher
    tokens_C: Tensor
    """Tokens executed per counted slot since `reset_counters`, int64 `[C]`."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        output_TH, tokens_C = self.dispatched(self.dispatcher, hidden_states, top_k_index, top_k_weights)
        self.tokens_C.add_(tokens_C)
        return output_TH

    def dispatched(
        self, dispatcher: Dispatcher, hidden_TH: Tensor, index_TK: Tensor, weight_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `dispatcher` returns for the routed experts, plus, at no exchange, the tokens of zero experts."""
        flat_TH = hidden_TH.reshape(-1, hidden_TH.shape[-1])
        if not self.has_zero_experts:
            output_TH, tokens_C = dispatcher(self.experts, flat_TH, self.choice(index_TK), weight_TK)
            return output_TH.reshape(hidden_TH.shape), tokens_C
        is_zero_TK = index_TK >= self.table.experts
        slot_TK = self.choice(index_TK.clamp(max=self.table.experts))
        output_TH, tokens_C = dispatcher(self.experts, flat_TH, slot_TK, weight_TK.masked_fill(is_zero_TK, 0.0))
        kept_T1 = weight_TK.masked_fill(~is_zero_TK, 0.0).sum(-1, keepdim=True)
        return (output_TH + (flat_TH * kept_T1).to(output_TH.dtype)).reshape(hidden_TH.shape), tokens_C

    def tokens_per_gpu(self) -> dict[int, int]:
        """Tokens executed since the last `reset_counters` on every GPU whose slots this process executes."""
        counts = dict.fromkeys(range(self.table.gpus), 0)
        counted = self.dispatcher.counted_slots
        for slot, tokens in zip(counted, self.tokens_C.tolist(), strict=True):
            counts[self.table.gpu_S[slot]] += tokens
        here = {self.table.gpu_S[slot] for slot in counted}
        return {gpu: tokens for gpu, tokens in counts.items() if gpu in here}

    def reset_counters(self) -> None:
        """Set the counts of tokens to zero."""
        self.tokens_C.zero_()

    def extra_repr(self) -> str:
        return f"{self.name}: {self.table.experts} experts in {self.table.slots} slots on {self.table.gpus} GPUs"


def _device_of(experts: nn.Module) -> torch.device:
    """The device of the weights (quantised ones are buffers); the CPU if there are none, or none yet (meta device)."""
    tensor = next(chain(experts.parameters(), experts.buffers()), None)
    return torch.device("cpu") if tensor is None or tensor.is_meta else tensor.device


def virtual_experts(experts: nn.Module, layer: LayerPlan) -> ReplicatedExperts:
    """`experts` replicated as `layer` says over virtual GPUs in this process; weights are shared with `experts`."""
    table = slot_table(layer)
    return ReplicatedExperts(experts, copy_choice(layer, rank=0), VirtualDispatcher(table), table, layer.name)


def distributed_experts(
    experts: nn.Module, layer: LayerPlan, group: RankGroup, rule: CopyRule = "planned"
) -> ReplicatedExperts:
    """This rank's share of `experts` as `layer` says: its own slots' weights only, tokens exchanged in `group`.

    `experts` holds all logical experts (or is on the meta device, for weights that are loaded afterwards).
    """
    table = slot_table(layer)
    own = local_experts(experts, table.experts_of(group.rank))
    dispatcher = C10dDispatcher(table, group, layer.name)
    return ReplicatedExperts(own, copy_choice(layer, group.rank, rule), dispatcher, table, layer.name)
