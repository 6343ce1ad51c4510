"""The strict check of slots that every reader ends with, and the check that every writer for a uniform server begins
with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from craftc.errors import BadInput, Refused
from craftc.manifests.format import SlotRule, Target
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.problem import Placement


def split_row(expert_of_slot: Sequence[int], gpus: int, where: str) -> Placement:
    """The placement of a layer from its slots in rank order, the same number on every GPU. Raises BadInput."""
    slots = len(expert_of_slot)
    if slots == 0 or slots % gpus:
        raise BadInput(f"{where}: {slots} slots cannot be split evenly over {gpus} GPUs")
    width = slots // gpus
    return tuple(tuple(expert_of_slot[gpu * width : (gpu + 1) * width]) for gpu in range(gpus))


def join_row(placement: Placement) -> list[int]:
    """Expert of every slot, in rank order."""
    return [expert for gpu in placement for expert in gpu]


def check_placement(placement: Placement, gpus: int, layer: MoELayer, where: str) -> None:
    """Raise BadInput unless every id is an expert, every expert has a copy, and no GPU has two copies of an expert."""
    if len(placement) != gpus:
        raise BadInput(f"{where}: {len(placement)} GPUs, expected {gpus}")
    seen = Counter(expert for gpu in placement for expert in gpu)
    for expert in seen:
        if not 0 <= expert < layer.experts:
            raise BadInput(f"{where}: expert {expert} is not in 0..{layer.experts - 1}")
    missing = [expert for expert in range(layer.experts) if expert not in seen]
    if missing:
        raise BadInput(f"{where}: {len(missing)} of {layer.experts} experts have no copy, the first is {missing[0]}")
    for gpu, experts in enumerate(placement):
        twice = next((expert for expert, copies in Counter(experts).items() if copies > 1), None)
        if twice is not None:
            raise BadInput(f"{where}: expert {twice} is on GPU {gpu} more than once")


def check_widths(placements: Sequence[Placement], where: str) -> None:
    """Raise BadInput unless all GPUs hold the same number of slots in all layers, as a uniform server does."""
    width = len(placements[0][0]) if placements and placements[0] else 0
    for ordinal, placement in enumerate(placements):
        for gpu, experts in enumerate(placement):
            if len(experts) != width:
                raise BadInput(
                    f"{where}: layer {ordinal}, GPU {gpu}: {len(experts)} slots where the others have {width}"
                )


def uniform_slots(target: Target) -> int:
    """The number of experts, for a server that has one number for all layers. Raises Refused if layers differ."""
    few, many = (pick(target.layers, key=lambda layer: layer.experts) for pick in (min, max))
    if few.experts != many.experts:
        raise Refused(
            f"layers have {few.experts} to {many.experts} experts ({few.name}, {many.name}); this server knows one "
            f"number for all layers"
        )
    return few.experts


def redundant_experts(plan: ReplicationPlan) -> int:
    """Replicas per layer of a plan that has the same number in all layers."""
    return plan.layers[0].replicas


def needed_widths(plan: ReplicationPlan, rule: SlotRule) -> tuple[int, ...]:
    """Fewest slots per GPU that every layer needs under `rule` (`even` or `uniform`)."""
    gpus = plan.topology.gpus
    widths = [
        max(-(-(layer.experts + layer.replicas) // gpus), *(len(gpu) for gpu in layer.placement), 0)
        for layer in plan.layers
    ]
    return tuple(widths) if rule == "even" else (max(widths),) * len(widths)


def fits(plan: ReplicationPlan, rule: SlotRule) -> bool:
    """Whether a format with `rule` can hold the plan without padding."""
    if rule == "any":
        return True
    widths = needed_widths(plan, rule)
    return all(len(gpu) == width for layer, width in zip(plan.layers, widths, strict=True) for gpu in layer.placement)
