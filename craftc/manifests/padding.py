"""Padding a plan to equal slot counts on all GPUs, and usually in all layers: most servers can load nothing else.

Axes: S steps, L layers, E experts, G GPUs, A ways to pad.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import BadInput, Unsupported
from craftc.loads.load_profile import LoadProfile
from craftc.manifests.format import SlotRule, target_of_plan
from craftc.manifests.slots import fits, needed_widths, uniform_slots
from craftc.plans.replication_plan import LayerPlan, PlanBudget, ReplicationPlan
from craftc.solvers.planners.kinds import for_layers
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import DEFAULT_PLANNER, Placement, PlanningProblem
from craftc.solvers.replay import replay
from craftc.topology import Topology
from craftc.units import format_size


@dataclass(frozen=True)
class PaddingCost:
    """What the slot rule of a format costs a plan."""

    slots_L: tuple[int, ...]
    """Slots of every layer after padding, multiples of the number of GPUs."""
    added_replicas: int
    """Copies added over all layers."""
    plan_bytes_per_gpu: float
    """Replica bytes per GPU of the plan without padding."""
    padded_bytes_per_gpu: float
    """Replica bytes per GPU of the padded plan."""

    def __str__(self) -> str:
        least, most = min(self.slots_L), max(self.slots_L)
        slots = f"{most} slots in every layer" if least == most else f"{least} to {most} slots"
        copies = "copy" if self.added_replicas == 1 else "copies"
        return (
            f"{slots}: {self.added_replicas} {copies} added, replicas take "
            f"{format_size(self.padded_bytes_per_gpu)} per GPU instead of {format_size(self.plan_bytes_per_gpu)}"
        )


def padding_cost(plan: ReplicationPlan, rule: SlotRule) -> PaddingCost:
    """The cost of `pad_plan`, without padding."""
    gpus = plan.topology.gpus
    slots_L = tuple(width * gpus for width in needed_widths(plan, rule))
    pairs = list(zip(plan.layers, slots_L, strict=True))
    return PaddingCost(
        slots_L=slots_L,
        added_replicas=sum(slots - layer.experts - layer.replicas for layer, slots in pairs),
        plan_bytes_per_gpu=sum(layer.replicas * layer.expert_bytes for layer in plan.layers) / gpus,
        padded_bytes_per_gpu=sum((slots - layer.experts) * layer.expert_bytes for layer, slots in pairs) / gpus,
    )


def pad_plan(plan: ReplicationPlan, loads: LoadProfile | None, rule: SlotRule = "uniform") -> ReplicationPlan:
    """The plan with the same number of slots on every GPU: of the largest layer (`uniform`) or of each layer (`even`).

    The added slots hold the copies that help most on `loads`. Three ways are tried for each layer and the best one is
    kept: the plan's slots stay and free ones are filled (by load, or evenly), or the planner places the layer
    again with more copies. Without loads, the plan's slots stay and experts with the fewest copies come first. A plan
    that already fits is returned unchanged; otherwise `estimate` and `shares` are dropped: they describe other
    placements.

    Raises BadInput if the loads are of another model, Unsupported for plans that keep expert groups on nodes, Refused
    if slots would have to be `uniform` in layers with different numbers of experts.
    """
    if fits(plan, rule):
        return plan
    if rule == "uniform":
        uniform_slots(target_of_plan(plan))
    if plan.groups > 1:
        raise Unsupported(
            f"padding: the plan keeps {plan.groups} groups of experts on nodes, but added copies would not; "
            f"plan with --uniform, which needs no padding"
        )
    _check_loads(plan, loads)
    widths = needed_widths(plan, rule)
    layers = tuple(_padded_layers(plan, widths)) if loads is None else _best_layers(plan, widths, loads)
    spent = sum(layer.replicas * layer.expert_bytes for layer in layers)
    budget = PlanBudget(f"{plan.budget.requested}, padded", max(plan.budget.bytes, spent), spent)
    return replace(plan, layers=layers, budget=budget, estimate=None)


def _check_loads(plan: ReplicationPlan, loads: LoadProfile | None) -> None:
    if loads is None:
        return
    experts_L = tuple(layer.experts for layer in plan.layers)
    if loads.experts_L != experts_L:
        raise BadInput(
            f"padding: loads are {loads.layers} layers of {_numbers(loads.experts_L)} experts, "
            f"the plan has {len(experts_L)} of {_numbers(experts_L)}"
        )


def _numbers(experts_L: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(experts_L))))


def _padded_layers(plan: ReplicationPlan, widths: Sequence[int]) -> Iterator[LayerPlan]:
    """Every layer with its slots kept and the free ones filled evenly."""
    for layer, width in zip(plan.layers, widths, strict=True):
        yield _with_placement(layer, _filled(layer, width, np.ones(layer.experts), plan.topology))


def _best_layers(plan: ReplicationPlan, widths: Sequence[int], loads: LoadProfile) -> tuple[LayerPlan, ...]:
    """The best of three for every layer: slots kept and filled evenly, or by load; placed again by the planner."""
    sizes_L = tuple(layer.expert_bytes for layer in plan.layers)
    replicas_L = tuple(
        width * plan.topology.gpus - layer.experts for layer, width in zip(plan.layers, widths, strict=True)
    )
    budget_bytes = sum(replicas * size for replicas, size in zip(replicas_L, sizes_L, strict=True))
    problem = PlanningProblem(loads.counts_SLE, plan.topology, sizes_L, budget_bytes, layer_experts=loads.layer_experts)
    load_LE = loads.counts_SLE.sum(axis=0).astype(np.float64)
    choices: list[tuple[Placement, ...]] = [
        tuple(layer.placement for layer in _padded_layers(plan, widths)),
        tuple(
            _filled(layer, width, load_E[: layer.experts], plan.topology)
            for layer, width, load_E in zip(plan.layers, widths, load_LE, strict=True)
        ),
        for_layers(planner_named(DEFAULT_PLANNER), problem).place(problem, replicas_L),
    ]
    balancedness_CL = np.stack([replay(loads.counts_SLE, choice).mean(axis=0) for choice in choices])
    best_L = balancedness_CL.argmax(axis=0).tolist()
    return tuple(
        _with_placement(layer, choices[best][ordinal])
        for ordinal, (layer, best) in enumerate(zip(plan.layers, best_L, strict=True))
    )


def _with_placement(layer: LayerPlan, placement: Placement) -> LayerPlan:
    replicas = sum(len(gpu) for gpu in placement) - layer.experts
    return replace(layer, replicas=replicas, placement=placement, shares=None)


def _filled(layer: LayerPlan, width: int, load_E: np.ndarray, topology: Topology) -> Placement:
    """The layer's placement with its free slots filled: the largest load per copy first, on a node with the fewest
    copies of the expert, there on the least loaded GPU with room.
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
