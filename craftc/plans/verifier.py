"""The check that every plan passes, wherever it comes from."""

from __future__ import annotations

from collections import Counter

from craftc.errors import VerificationFailed
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.verifier import PlacedLayer, group_violations, violations


def verify_plan(plan: ReplicationPlan) -> tuple[str, ...]:
    """All rules (docs/plan-file.md) that `plan` violates, in words; empty if it is sound."""
    names = Counter(layer.name for layer in plan.layers)
    repeated = tuple(f"layer {name}: named {times} times" for name, times in names.items() if times > 1)
    if not plan.layers:
        return ("plan: has no layers",)
    layers = [
        PlacedLayer(layer.name, layer.experts, layer.expert_bytes, layer.replicas, layer.placement, layer.shares)
        for layer in plan.layers
    ]
    found = violations(layers, plan.topology.gpus, plan.budget.bytes, plan.budget.spent_bytes)
    return repeated + found + group_violations(layers, plan.topology, plan.groups)


def require_sound(plan: ReplicationPlan) -> None:
    """Raise VerificationFailed with the first violation and the number of others if `plan` is not sound."""
    found = verify_plan(plan)
    if found:
        more = f" (and {len(found) - 1} more violations)" if len(found) > 1 else ""
        raise VerificationFailed(f"plan is not sound: {found[0]}{more}")
