"""Padding a plan to one slot count for all layers, which is all that most servers can load.

Axes: S steps, L layers, E experts, G GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import BadInput
from craftc.loads import LoadProfile
from craftc.manifests.slots import is_uniform
from craftc.plan import LayerPlan, Placement, PlanBudget, ReplicationPlan
from craftc.solvers.placement import greedy_placement
from craftc.solvers.replay import replay
from craftc.solvers.replication import greedy_copies
from craftc.topology import Topology
from craftc.units import format_size


@dataclass(frozen=True)
class PaddingCost:
    """What a uniform server makes a plan cost."""

    slots: int
    """Slots of every layer after padding, a multiple of the GPUs."""
    added_replicas: int
    """Copies added over all layers."""
    plan_bytes_per_gpu: float
    """Replica bytes per GPU of the plan as it is."""
    padded_bytes_per_gpu: float
    """Replica bytes per GPU of the padded plan."""

    def __str__(self) -> str:
        copies = "copy" if self.added_replicas == 1 else "copies"
        return (
            f"{self.slots} slots in every layer: {self.added_replicas} {copies} added, replicas take "
            f"{format_size(self.padded_bytes_per_gpu)} per GPU instead of {format_size(self.plan_bytes_per_gpu)}"
        )


def padding_cost(plan: ReplicationPlan) -> PaddingCost:
    """The cost of `pad_plan`, without doing it."""
    slots, gpus = _padded_slots(plan), plan.topology.gpus
    added = sum(slots - layer.experts - layer.replicas for layer in plan.layers)
    unpadded = sum(layer.replicas * layer.expert_bytes for layer in plan.layers)
    padded = sum((slots - layer.experts) * layer.expert_bytes for layer in plan.layers)
    return PaddingCost(slots, added, unpadded / gpus, padded / gpus)


def pad_plan(plan: ReplicationPlan, loads: LoadProfile | None) -> ReplicationPlan:
    """The plan with the same number of slots on every GPU in every layer: the largest layer's, rounded up to a
    multiple of G.

    The added slots hold the copies that help most on `loads`. Three ways are tried for each layer and the best one is
    kept: the plan's slots stay and free ones are filled (by load, or evenly), or the layer is placed anew with more
    copies. Without loads the plan's slots stay and experts with the fewest copies come first. A plan that is uniform
    already is returned as it is. Its `estimate` and `shares` are dropped: they describe other placements. Raises
    BadInput where the loads are of another model.
    """
    if is_uniform(plan):
        return plan
    _check_loads(plan, loads)
    width = _padded_slots(plan) // plan.topology.gpus
    layers = tuple(
        _padded_layer(layer, width, plan.topology, None if loads is None else loads.counts_SLE[:, ordinal])
        for ordinal, layer in enumerate(plan.layers)
    )
    spent = sum(layer.replicas * layer.expert_bytes for layer in layers)
    budget = PlanBudget(f"{plan.budget.requested}, padded", max(plan.budget.bytes, spent), spent)
    return replace(plan, layers=layers, budget=budget, estimate=None)


def _padded_slots(plan: ReplicationPlan) -> int:
    """Slots of every layer: enough for the fullest GPU of the fullest layer, the same on every GPU."""
    fullest = max(layer.experts + layer.replicas for layer in plan.layers)
    fullest_gpu = max(len(gpu) for layer in plan.layers for gpu in layer.placement)
    return max(math.ceil(fullest / plan.topology.gpus), fullest_gpu) * plan.topology.gpus


def _check_loads(plan: ReplicationPlan, loads: LoadProfile | None) -> None:
    if loads is None:
        return
    experts = {layer.experts for layer in plan.layers}
    if loads.layers != len(plan.layers) or experts != {loads.experts}:
        raise BadInput(
            f"padding: loads are {loads.layers} layers of {loads.experts} experts, "
            f"the plan has {len(plan.layers)} of {', '.join(map(str, sorted(experts)))}"
        )


def _padded_layer(layer: LayerPlan, width: int, topology: Topology, counts_SE: np.ndarray | None) -> LayerPlan:
    replicas = width * topology.gpus - layer.experts
    placement = _filled(layer, width, np.ones(layer.experts), topology)
    if counts_SE is not None:
        load_E = counts_SE.sum(axis=0).astype(np.float64)
        copies_E = greedy_copies(load_E[None], np.array([replicas]), topology.gpus)[0]
        choices = (
            placement,
            _filled(layer, width, load_E, topology),
            greedy_placement(load_E, copies_E, np.full(topology.gpus, width), topology),
        )
        placement = max(choices, key=lambda choice: float(replay(counts_SE[:, None], [choice]).mean()))
    return replace(layer, replicas=replicas, placement=placement, shares=None)


def _filled(layer: LayerPlan, width: int, load_E: np.ndarray, topology: Topology) -> Placement:
    """The layer's placement with its free slots filled: the largest load per copy first, on the least loaded GPU with
    room.
    """
    node_G = np.array(topology.node_of_gpu_G)
    copies_E = np.array(layer.copies_E)
    placement = [list(gpu) for gpu in layer.placement]
    holds_GE = np.zeros((topology.gpus, layer.experts), dtype=bool)
    for gpu, experts in enumerate(placement):
        holds_GE[gpu, experts] = True
    while (room_G := holds_GE.sum(axis=1) < width).any():
        share_E = load_E / copies_E
        open_GE = room_G[:, None] & ~holds_GE
        candidates = np.flatnonzero(open_GE.any(axis=0))
        # Ties go to the expert with the fewest copies, then to the lower id.
        expert = candidates[np.lexsort((copies_E[candidates], -share_E[candidates]))[0]]
        gpus = np.flatnonzero(open_GE[:, expert])
        node_copies_G = np.bincount(node_G, weights=holds_GE[:, expert])[node_G]
        gpu = gpus[np.lexsort(((holds_GE @ share_E)[gpus], node_copies_G[gpus]))[0]]
        holds_GE[gpu, expert] = True
        placement[gpu].append(int(expert))
        copies_E[expert] += 1
    return tuple(map(tuple, placement))
