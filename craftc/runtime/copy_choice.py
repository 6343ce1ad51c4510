"""Which copy of its expert a routed token goes to: decided by each rank on its own, without a collective or a host
synchronisation, and without a loop over tokens or experts.

A *pair* is one (token, expert) assignment of the router. Pairs are numbered by occurrence within their expert;
numbering by position would be biased, because the k-th choice of a token always has the same position modulo k.

Axes: T tokens, K experts per token, P = T x K pairs, E experts, S slots.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.slot_table import SlotTable, slot_table, with_no_expert

CopyRule = Literal["planned", "local-first"]
"""`planned`: the plan's shares, even shares by default. `local-first`: the rank's own copy if it has one, else the
plan's shares (fewer tokens travel, but copies are no longer used evenly)."""


_PARTS = 2**20
"""Shares are kept as whole multiples of 1/_PARTS: exact, and safe from `.to(dtype)`, which casts floating buffers."""


def copy_choice(layer: LayerPlan, rank: int, rule: CopyRule = "planned") -> nn.Module:
    """The module `index_TK -> slot_TK` of one layer on one rank (GPU), for `rule`.

    Index E, "no expert", gives slot S, which is nowhere.
    """
    table = with_no_expert(slot_table(layer))
    planned = _planned_choice(layer, table, rank)
    return planned if rule == "planned" else LocalFirst(table, rank, planned)


def _planned_choice(layer: LayerPlan, table: SlotTable, rank: int) -> nn.Module:
    if max(table.copies_E) == 1:
        return OnlyCopy(table)
    return EvenShares(table, rank) if layer.shares is None else PlannedShares(table, rank)


class OnlyCopy(nn.Module):
    """No expert has replicas: a table look-up."""

    def __init__(self, table: SlotTable):
        super().__init__()
        _register_table(self, "slot_E", table.slots_by_expert_S)

    slot_E: Tensor

    def forward(self, index_TK: Tensor) -> Tensor:
        return self.slot_E[index_TK]


class EvenShares(nn.Module):
    """Round robin over the copies, which differ by at most one token per call. The first copy served depends on rank
    and expert, so they do not all favour the same GPU."""

    def __init__(self, table: SlotTable, rank: int):
        super().__init__()
        firsts = [sum(table.copies_E[:expert]) for expert in range(table.experts)]
        _register_table(self, "copies_E", table.copies_E)
        _register_table(self, "first_E", firsts)
        _register_table(self, "start_E", [(rank + expert) % copies for expert, copies in enumerate(table.copies_E)])
        _register_table(self, "expert_E", range(table.experts))
        _register_table(self, "slots_by_expert_S", table.slots_by_expert_S)

    copies_E: Tensor
    first_E: Tensor
    start_E: Tensor
    expert_E: Tensor
    slots_by_expert_S: Tensor

    def forward(self, index_TK: Tensor) -> Tensor:
        expert_P, pair_P = torch.sort(index_TK.reshape(-1), stable=True)
        # occurrence = position among the sorted pairs - position of the expert's first pair
        shift_E = self.start_E - torch.searchsorted(expert_P, self.expert_E)
        turn_P = torch.arange(expert_P.shape[0], device=expert_P.device) + shift_E[expert_P]
        copy_P = self.first_E[expert_P] + turn_P % self.copies_E[expert_P]
        return torch.empty_like(pair_P).scatter_(0, pair_P, self.slots_by_expert_S[copy_P]).view_as(index_TK)


class PlannedShares(nn.Module):
    """The plan's shares by largest remainder: every copy gets its share of this call's pairs rounded down or up.
    Ties of remainders rotate with the rank."""

    def __init__(self, table: SlotTable, rank: int):
        super().__init__()
        firsts = [sum(table.copies_E[:expert]) for expert in range(table.experts)]
        experts_S = [table.expert_S[slot] for slot in table.slots_by_expert_S]
        copies = [position - firsts[expert] for position, expert in enumerate(experts_S)]
        turn_S = [
            (copy - rank - expert) % table.copies_E[expert] for copy, expert in zip(copies, experts_S, strict=True)
        ]
        _register_table(self, "expert_S", experts_S)
        _register_table(self, "turn_S", turn_S)
        _register_table(self, "first_E", firsts)
        _register_table(self, "slots_by_expert_S", table.slots_by_expert_S)
        _register_table(
            self, "parts_S", _whole_parts([table.share_S[slot] for slot in table.slots_by_expert_S], firsts)
        )

    expert_S: Tensor
    turn_S: Tensor
    first_E: Tensor
    slots_by_expert_S: Tensor
    parts_S: Tensor

    def forward(self, index_TK: Tensor) -> Tensor:
        expert_P, pair_P = torch.sort(index_TK.reshape(-1), stable=True)
        last_S = torch.cumsum(self._pairs_per_copy(index_TK.reshape(-1)), 0)
        # pairs and copies are both sorted by expert, so a pair's position determines its copy
        position_P = torch.arange(expert_P.shape[0], device=expert_P.device)
        copy_P = torch.searchsorted(last_S, position_P, right=True)
        return torch.empty_like(pair_P).scatter_(0, pair_P, self.slots_by_expert_S[copy_P]).view_as(index_TK)

    def _pairs_per_copy(self, index_P: Tensor) -> Tensor:
        """Whole numbers in the order of `slots_by_expert_S`; those of an expert's copies sum to its pairs."""
        pairs_E = torch.zeros_like(self.first_E).scatter_add_(0, index_P, torch.ones_like(index_P))
        quota_S = pairs_E[self.expert_S] * self.parts_S  # in 1/_PARTS of a pair: integers, so nothing is lost
        whole_S = quota_S // _PARTS
        missing_E = pairs_E.scatter_add(0, self.expert_S, -whole_S)
        remainder_S = quota_S % _PARTS
        # by expert, then by remainder, then by turn
        order_S = torch.argsort(self.turn_S, stable=True)
        order_S = order_S[torch.argsort(remainder_S[order_S], descending=True, stable=True)]
        order_S = order_S[torch.argsort(self.expert_S[order_S], stable=True)]
        place_S = torch.arange(order_S.shape[0], device=order_S.device) - self.first_E[self.expert_S]
        place_S = torch.empty_like(place_S).scatter_(0, order_S, place_S)
        return whole_S + (place_S < missing_E[self.expert_S])


class LocalFirst(nn.Module):
    """The rank's own copy if it has one, `otherwise` for the rest."""

    def __init__(self, table: SlotTable, rank: int, otherwise: nn.Module):
        super().__init__()
        first = table.first_slot(rank)
        own = {expert: first + slot for slot, expert in enumerate(table.experts_of(rank))}
        _register_table(self, "own_slot_E", [own.get(expert, -1) for expert in range(table.experts)])
        self.otherwise = otherwise

    own_slot_E: Tensor

    def forward(self, index_TK: Tensor) -> Tensor:
        own_TK = self.own_slot_E[index_TK]
        return torch.where(own_TK >= 0, own_TK, self.otherwise(index_TK))


def _whole_parts(share_S: list[float], first_E: list[int]) -> list[int]:
    """Shares in units of 1/_PARTS, which sum to _PARTS for every expert: the largest share takes the rounding."""
    parts: list[int] = []
    for first, end in pairwise([*first_E, len(share_S)]):
        own = [round(share * _PARTS) for share in share_S[first:end]]
        own[own.index(max(own))] += _PARTS - sum(own)
        parts += own
    return parts


def _register_table(module: nn.Module, name: str, values: Iterable[int]) -> None:
    """Register an int64 buffer that follows `.to()` but is not in the state dict, because it comes from the plan."""
    table = torch.tensor(list(values), dtype=torch.int64, device="cpu")
    module.register_buffer(name, table, persistent=False)
