"""Do all ranks run the same plan? Checked once at start: with different plans, rows would reach slots of other
experts."""

from __future__ import annotations

import hashlib

import torch.distributed as dist

from craftc.errors import BadInput
from craftc.plans.replication_plan import ReplicationPlan
from craftc.runtime.exchange import rank_failures
from craftc.runtime.rank_group import RankGroup


def plan_fingerprint(plan: ReplicationPlan) -> str:
    """Hex SHA-256 of topology, layers, placement and shares: all that the runtime uses of a plan."""
    return hashlib.sha256(repr((plan.topology, plan.layers)).encode()).hexdigest()


def check_ranks_agree(plan: ReplicationPlan, group: RankGroup) -> None:
    """Raise BadInput, on every rank, unless there is one rank per planned GPU and all ranks have the same plan."""
    prints: list[str] = [""] * group.size
    with rank_failures(group, "comparison of plans"):
        dist.all_gather_object(prints, plan_fingerprint(plan), group=group.process_group)
    odd = [rank for rank, fingerprint in enumerate(prints) if fingerprint != prints[0]]
    if odd:
        raise BadInput(
            f"ranks have different plans: rank {odd[0]}'s is {prints[odd[0]][:12]}, rank 0's is {prints[0][:12]} "
            f"({len(odd)} of {group.size} ranks differ from rank 0); give all ranks the same plan file"
        )
    if group.size != plan.topology.gpus:
        raise BadInput(
            f"plan is for {plan.topology.gpus} GPUs, but {group.size} ranks are running; "
            f"start {plan.topology.gpus} ranks, or plan again for {group.size} GPUs"
        )
