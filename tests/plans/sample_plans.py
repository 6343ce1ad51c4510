"""Plans for tests: the toy plan of every format's example, and random valid ones of any shape."""

from __future__ import annotations

import random
from collections.abc import Sequence

from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import PlanBudget, Provenance, ReplicationPlan, layer_plan
from craftc.solvers.problem import Placement
from craftc.topology import Topology

PROVENANCE = Provenance("0", "sha256:0", None, "test", "none", "heuristic", None)


def plan_of(placements: Sequence[Placement], layers: Sequence[MoELayer], nodes: int = 1) -> ReplicationPlan:
    """A plan with the given placements."""
    planned = tuple(layer_plan(layer, placement) for layer, placement in zip(layers, placements, strict=True))
    spent = sum(layer.replicas * layer.expert_bytes for layer in planned)
    topology = Topology(len(placements[0]), nodes)
    return ReplicationPlan(topology, PlanBudget("test", spent, spent), planned, None, PROVENANCE)


def toy_layers() -> tuple[MoELayer, ...]:
    """Decoder layer 0 is dense, layers 1 and 2 have 4 experts."""
    return tuple(MoELayer(f"layers.{index}", index, experts=4, expert_bytes=1000, top_k=2) for index in (1, 2))


def toy_plan() -> ReplicationPlan:
    """E=4, G=2, S=6: layer 1 on ranks [0,1,2] [3,0,1], layer 2 on [2,3,0] [1,2,3]."""
    return plan_of([((0, 1, 2), (3, 0, 1)), ((2, 3, 0), (1, 2, 3))], toy_layers())


def uneven_plan() -> ReplicationPlan:
    """The toy model with 5 slots in layer 1 and 6 in layer 2."""
    return plan_of([((0, 1, 2), (3, 0)), ((2, 3, 0), (1, 2, 3))], toy_layers())


def random_placement(seed: random.Random, experts: int, gpus: int, slots: int) -> Placement:
    """Every expert at least once, none twice on a GPU, slots even up to one; slots in experts..experts * gpus."""
    widths = [slots // gpus + (gpu < slots % gpus) for gpu in range(gpus)]
    seed.shuffle(widths)
    copies = [1] * experts
    for _ in range(slots - experts):
        copies[seed.choice([expert for expert in range(experts) if copies[expert] < gpus])] += 1
    held: list[list[int]] = [[] for _ in range(gpus)]
    # The GPUs with the most room take an expert's copies, experts with the most copies first: this never gets stuck.
    for expert in sorted(range(experts), key=lambda expert: -copies[expert]):
        order = sorted(range(gpus), key=lambda gpu: (len(held[gpu]) - widths[gpu], seed.random()))
        for gpu in order[: copies[expert]]:
            held[gpu].append(expert)
    for row in held:
        seed.shuffle(row)
    return tuple(map(tuple, held))


def random_plan(
    number: int, gpus: int, experts: int, slots_per_layer: Sequence[int], first_index: int
) -> ReplicationPlan:
    """A plan of layers first_index, first_index + 1, ... with the given slots; the same for the same arguments."""
    seed = random.Random(number)
    layers = [
        MoELayer(f"layers.{first_index + ordinal}", first_index + ordinal, experts, 1000, 1)
        for ordinal in range(len(slots_per_layer))
    ]
    return plan_of([random_placement(seed, experts, gpus, slots) for slots in slots_per_layer], layers)
