"""Any planner for models whose layers have different numbers of experts.

Layers of one kind, with the same number of experts, are planned together; the budget is spent over all layers, and GPUs
are renamed so that memory is even over all kinds.

Axes: L layers, C candidate replica counts, G GPUs, B placements of single layers, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import Infeasible
from craftc.solvers.objectives import score_scale
from craftc.solvers.placement.node_spread import spread_over_nodes
from craftc.solvers.planners.around import PlannerAround
from craftc.solvers.problem import (
    Allocation,
    BenefitCurves,
    Placement,
    Planner,
    PlanningProblem,
)
from craftc.solvers.replay import placement_array, placements_of


@dataclass(frozen=True)
class KindsPlanner(PlannerAround):
    """`inner`, kind by kind: it plans layers with the same number of experts."""

    def sketch(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """Those of `inner`; a layer has no more replicas than there is room for."""
        room_B = _room(problem)[layer_B]
        rows, found = [], []
        for layers in problem.kinds:
            own = np.flatnonzero(np.isin(layer_B, layers))
            rows.append(own)
            replicas = np.minimum(replicas_B, room_B)[own]
            found.append(self.inner.sketch(problem.on_layers(layers), np.searchsorted(layers, layer_B[own]), replicas))
        return _together(found, rows)

    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """The curves of all kinds; a count that was not tried in a layer is worth what the count before it is."""
        kinds = [(layers, problem.on_layers(layers)) for layers in problem.kinds]
        curves = [self.inner.estimate(_affordable(problem, self.inner, layers, own)) for layers, own in kinds]
        candidates = tuple(sorted(set().union(*(each.candidates_C for each in curves))))
        shape = (problem.layers, len(candidates))
        balancedness_LC, score_LC = np.empty(shape), np.empty(shape)
        for (layers, own), each in zip(kinds, curves, strict=True):
            tried_C = np.searchsorted(each.candidates_C, candidates, side="right") - 1
            balancedness_LC[layers] = each.balancedness_LC[:, tried_C]
            score_LC[layers] = each.value_LC[:, tried_C] * score_scale(problem, layers, own)
        scored = any(each.score_LC is not None for each in curves)
        return BenefitCurves(candidates, balancedness_LC, score_LC if scored else None)

    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """The knapsack over all layers; of planners with uniform counts, what they choose for every kind."""
        if self.inner.per_layer:
            return self.knapsack(problem, curves)
        return self._uniform(problem)

    def knapsack(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """What `inner` chooses by the curves, as far as there is room: further replicas were worth nothing."""
        allocation = self.inner.knapsack(problem, curves)
        replicas_L = np.minimum(allocation.replicas_L, _room(problem))
        return replace(allocation, replicas_L=tuple(replicas_L.tolist()))

    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """The placements of `inner` for every kind, with GPUs renamed."""
        return place_kinds(
            problem,
            [
                self.inner.place(problem.on_layers(layers), tuple(replicas_L[layer] for layer in layers))
                for layers in problem.kinds
            ],
        )

    def _uniform(self, problem: PlanningProblem) -> Allocation:
        replicas_L = np.zeros(problem.layers, dtype=np.int64)
        chosen = []
        for layers in problem.kinds:
            own = _affordable(problem, self.inner, layers, problem.on_layers(layers))
            chosen.append(self.inner.allocate(own, self.inner.estimate(own)))
            replicas_L[layers] = chosen[-1].replicas_L
        return replace(
            chosen[0],
            replicas_L=tuple(replicas_L.tolist()),
            objective=sum(each.objective for each in chosen),
            bound=sum(each.bound for each in chosen),
        )


def for_layers(planner: Planner, problem: PlanningProblem) -> Planner:
    """`planner` if all layers are alike, or its form for layers that differ."""
    return planner if problem.layer_experts is None else KindsPlanner(planner)


def place_kinds(problem: PlanningProblem, placed: Sequence[Sequence[Placement]]) -> tuple[Placement, ...]:
    """Placements of all layers from those of each of `problem.kinds`, memory as even over GPUs as in each kind.

    GPUs of a kind are renamed, the same way in all its layers: the fullest of one kind is the emptiest of the next.
    Copies of an expert are then spread over nodes.
    """
    bytes_G = np.zeros(problem.topology.gpus, dtype=np.int64)
    renamed = []
    for layers, placements in zip(problem.kinds, placed, strict=True):
        expert_AGK = placement_array(placements)
        size_A11 = np.array(problem.expert_bytes_L)[layers][:, None, None]
        own_bytes_G = ((expert_AGK >= 0) * size_A11).sum(axis=(0, 2))
        from_G = np.empty(len(bytes_G), dtype=np.int64)
        from_G[np.argsort(-bytes_G, kind="stable")] = np.argsort(own_bytes_G, kind="stable")
        renamed.append(spread_over_nodes(expert_AGK[:, from_G], problem.topology))
        bytes_G += own_bytes_G[from_G]
    return placements_of(_together(renamed, problem.kinds))


def _together(found: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
    """`expert_BGK` from parts of its rows."""
    gpus = found[0].shape[1]
    expert_BGK = np.full((sum(map(len, rows)), gpus, max(part.shape[2] for part in found)), -1, dtype=np.int32)
    for own, part in zip(rows, found, strict=True):
        expert_BGK[own, :, : part.shape[2]] = part
    return expert_BGK


def _room(problem: PlanningProblem) -> np.ndarray:
    """`room_L`: the most replicas of every layer, every expert once on every GPU."""
    return np.array(problem.experts_L) * (problem.topology.gpus - 1)


def _affordable(
    problem: PlanningProblem, planner: Planner, layers: np.ndarray, own: PlanningProblem
) -> PlanningProblem:
    """`own`, the problem on some `layers`, with its part of the budget if the planner has uniform counts.

    These fill equal slots in every layer, and then add as many slots to every GPU in all layers. Raises Infeasible if
    the budget does not pay for equal slots.
    """
    if planner.per_layer:
        return own
    gpus, sizes_L = problem.topology.gpus, np.array(problem.expert_bytes_L)
    filling_L = -np.array(problem.experts_L) % gpus
    least_bytes = int((filling_L * sizes_L).sum())
    if least_bytes > problem.budget_bytes:
        raise Infeasible(
            f"planner {planner.name}: {filling_L.sum()} replicas fill equal slots in all layers, {least_bytes} bytes; "
            f"the budget is {problem.budget_bytes} bytes: give {least_bytes}B or more, or choose another planner"
        )
    further = (problem.budget_bytes - least_bytes) // (gpus * int(sizes_L.sum()))
    own_bytes = int(((filling_L + further * gpus) * sizes_L)[layers].sum())
    return replace(own, budget_bytes=own_bytes)
