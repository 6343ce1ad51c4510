"""What changes between two plans, and which weights every GPU must receive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan


@dataclass(frozen=True)
class Move:
    """An expert that a GPU holds only after the change."""

    gpu: int
    """The GPU that receives it."""
    layer: str
    """Path of the experts module."""
    slot: int
    """Slot on the GPU in that layer, from 0."""
    expert: int
    """The expert received."""
    replaces: int | None
    """Expert that this slot held before, or None for a new slot."""
    bytes: int
    """Its size."""


@dataclass(frozen=True)
class GpuMoves:
    """What one GPU receives, gives up, and only reorders."""

    gpu: int
    """Rank."""
    received: int
    """Experts that the GPU receives, in all layers."""
    received_bytes: int
    """Their bytes."""
    dropped: int
    """Experts no longer held."""
    reordered: int
    """Experts that stay on the GPU in another slot: copied within its memory."""


@dataclass(frozen=True)
class PlanDiff:
    """All changes between two plans of the same model and GPUs."""

    gpus: tuple[GpuMoves, ...]
    """One per GPU."""
    moves: tuple[Move, ...]
    """By GPU, then layer, then slot."""
    changed_shares: tuple[str, ...]
    """Layers that keep their placement but not the shares of their copies."""
    balancedness: tuple[float | None, float | None]
    """Balancedness that the old and the new plan state, each on its own loads."""

    @property
    def moved_bytes(self) -> int:
        """Bytes that all GPUs receive in total."""
        return sum(gpu.received_bytes for gpu in self.gpus)


def diff_plans(old: ReplicationPlan, new: ReplicationPlan) -> PlanDiff:
    """Changes from `old` to `new`. Raises BadInput if the plans have different layers or GPUs."""
    if old.topology.gpus != new.topology.gpus:
        raise BadInput(
            f"the old plan is for {old.topology.gpus} GPUs, the new one for {new.topology.gpus}: "
            f"only plans for the same GPUs can be compared"
        )
    if len(old.layers) != len(new.layers):
        raise BadInput(
            f"the old plan has {len(old.layers)} layers, the new one {len(new.layers)}: give plans of one model"
        )
    for before, after in zip(old.layers, new.layers, strict=True):
        for what in ("name", "experts", "expert_bytes"):
            here, there = getattr(before, what), getattr(after, what)
            if here != there:
                raise BadInput(
                    f"layer {before.name}: {what} is {here} in the old plan and {there} in the new one; "
                    f"give plans of one model"
                )
    layers = tuple(zip(old.layers, new.layers, strict=True))
    return PlanDiff(
        gpus=tuple(_moves_of_gpu(gpu, layers) for gpu in range(new.topology.gpus)),
        moves=tuple(
            move for gpu in range(new.topology.gpus) for before, after in layers for move in _moves(gpu, before, after)
        ),
        changed_shares=tuple(
            after.name
            for before, after in layers
            if before.placement == after.placement and before.shares != after.shares
        ),
        balancedness=(
            None if old.estimate is None else old.estimate.balancedness,
            None if new.estimate is None else new.estimate.balancedness,
        ),
    )


def _moves(gpu: int, old: LayerPlan, new: LayerPlan) -> Iterator[Move]:
    before, after = old.placement[gpu], new.placement[gpu]
    for slot, expert in enumerate(after):
        if expert not in before:
            yield Move(gpu, new.name, slot, expert, before[slot] if slot < len(before) else None, new.expert_bytes)


def _moves_of_gpu(gpu: int, layers: tuple[tuple[LayerPlan, LayerPlan], ...]) -> GpuMoves:
    received = received_bytes = dropped = reordered = 0
    for old, new in layers:
        before, after = old.placement[gpu], new.placement[gpu]
        newly = len(set(after) - set(before))
        received += newly
        received_bytes += newly * new.expert_bytes
        dropped += len(set(before) - set(after))
        reordered += sum(expert in before and before.index(expert) != slot for slot, expert in enumerate(after))
    return GpuMoves(gpu, received, received_bytes, dropped, reordered)
