"""Slots of one layer, numbered 0..S-1 in GPU order, and the mapping from an expert to its slots.

Axes: S slots, E logical experts, G GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan


@dataclass(frozen=True)
class SlotTable:
    """The placement of one layer as flat tables; tensors are made from these."""

    expert_S: tuple[int, ...]
    """Expert whose copy each slot holds."""
    gpu_S: tuple[int, ...]
    """GPU of each slot, ascending."""
    share_S: tuple[float, ...]
    """Share of its expert's tokens for each slot, in 0..1; sums to 1 per expert."""
    slots_per_gpu_G: tuple[int, ...]
    """Slots of every GPU; may differ."""
    copies_E: tuple[int, ...]
    """Copies of every expert, at least 1."""
    slots_by_expert_S: tuple[int, ...]
    """All slots, sorted by expert and then by GPU: the copies of expert e are `copies_E[e]` consecutive entries."""

    @property
    def experts(self) -> int:
        return len(self.copies_E)

    @property
    def gpus(self) -> int:
        return len(self.slots_per_gpu_G)

    @property
    def slots(self) -> int:
        return len(self.expert_S)

    def first_slot(self, gpu: int) -> int:
        """Number of the first slot of `gpu`."""
        return sum(self.slots_per_gpu_G[:gpu])

    def experts_of(self, gpu: int) -> tuple[int, ...]:
        """Experts of one GPU in slot order."""
        first = self.first_slot(gpu)
        return self.expert_S[first : first + self.slots_per_gpu_G[gpu]]


def slot_table(layer: LayerPlan) -> SlotTable:
    """The tables of one planned layer. Raises BadInput if an expert has no copy or an id is out of range."""
    placement = layer.placement
    expert_S = tuple(expert for gpu in placement for expert in gpu)
    outside = [expert for expert in expert_S if not 0 <= expert < layer.experts]
    if outside:
        raise BadInput(
            f"plan: layer {layer.name} places expert {outside[0]}, but its experts are 0..{layer.experts - 1}"
        )
    homeless = [expert for expert, copies in enumerate(layer.copies_E) if copies == 0]
    if homeless:
        raise BadInput(f"plan: layer {layer.name} has no copy of expert {homeless[0]}; every expert needs one")
    return SlotTable(
        expert_S=expert_S,
        gpu_S=tuple(gpu for gpu, held in enumerate(placement) for _ in held),
        share_S=_shares(layer),
        slots_per_gpu_G=tuple(len(held) for held in placement),
        copies_E=layer.copies_E,
        slots_by_expert_S=tuple(sorted(range(len(expert_S)), key=lambda slot: expert_S[slot])),
    )


def with_no_expert(table: SlotTable) -> SlotTable:
    """`table` with one more expert, E, whose only copy is in one more slot, S, of no GPU: a token that has fewer
    experts than others is routed to it."""
    return replace(
        table,
        expert_S=(*table.expert_S, table.experts),
        gpu_S=(*table.gpu_S, table.gpus),
        share_S=(*table.share_S, 1.0),
        copies_E=(*table.copies_E, 1),
        slots_by_expert_S=(*table.slots_by_expert_S, table.slots),
    )


def _shares(layer: LayerPlan) -> tuple[float, ...]:
    if layer.shares is None:
        return tuple(1 / layer.copies_E[expert] for gpu in layer.placement for expert in gpu)
    return tuple(share for gpu in layer.shares for share in gpu)
