"""Placements for runtime tests."""

from __future__ import annotations

import random

from craftc.plan import LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.topology import Topology


def random_layer(
    name: str, experts: int, gpus: int, replicas: int, seed: int = 0, top_k: int = 2, index: int = 0
) -> LayerPlan:
    """A valid layer: slots differ by at most one per GPU, no expert twice on a GPU, copies anywhere."""
    rng = random.Random(seed)
    slots = experts + replicas
    sizes = [slots // gpus + (gpu < slots % gpus) for gpu in range(gpus)]
    rng.shuffle(sizes)
    while True:
        copies = list(range(experts))
        while len(copies) < slots:
            expert = rng.randrange(experts)
            if copies.count(expert) < gpus:
                copies.append(expert)
        placement = _try_place(copies, sizes, rng)
        if placement:
            return LayerPlan(name, index, experts, top_k, 1, replicas, placement)


def plan_of(layers: tuple[LayerPlan, ...], gpus: int) -> ReplicationPlan:
    """A plan of these layers, without an estimate."""
    spent = sum(layer.replicas * layer.expert_bytes for layer in layers)
    provenance = Provenance("0", "sha256:0", None, "craftc", "none", "heuristic", None)
    return ReplicationPlan(Topology(gpus), PlanBudget(f"{spent}B", spent, spent), layers, None, provenance)


def _try_place(copies: list[int], sizes: list[int], rng: random.Random) -> tuple[tuple[int, ...], ...] | None:
    """Most copied experts first, each copy onto the GPU with most room that lacks it; None where that fails."""
    held: list[list[int]] = [[] for _ in sizes]
    rng.shuffle(copies)
    for expert in sorted(copies, key=lambda one: -copies.count(one)):
        fitting = [gpu for gpu, size in enumerate(sizes) if len(held[gpu]) < size and expert not in held[gpu]]
        if not fitting:
            return None
        held[max(fitting, key=lambda gpu: (sizes[gpu] - len(held[gpu]), rng.random()))].append(expert)
    for one in held:
        rng.shuffle(one)
    return tuple(map(tuple, held))
