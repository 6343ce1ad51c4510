"""Placements for runtime tests."""

from __future__ import annotations

import random

from craftc.plans.replication_plan import LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.topology import Topology
from tests.plans.sample_plans import random_placement


def random_layer(
    name: str, experts: int, gpus: int, replicas: int, seed: int = 0, top_k: int = 2, index: int = 0
) -> LayerPlan:
    """A valid layer: slots differ by at most one per GPU, no expert twice on a GPU, copies anywhere."""
    placement = random_placement(random.Random(seed), experts, gpus, experts + replicas)
    return LayerPlan(name, index, experts, top_k, 1, replicas, placement)


def plan_of(layers: tuple[LayerPlan, ...], gpus: int) -> ReplicationPlan:
    """A plan of these layers, without an estimate."""
    spent = sum(layer.replicas * layer.expert_bytes for layer in layers)
    provenance = Provenance("0", "sha256:0", None, "craftc", "none", "heuristic", None)
    return ReplicationPlan(Topology(gpus), PlanBudget(f"{spent}B", spent, spent), layers, None, provenance)
