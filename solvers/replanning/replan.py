"""Replanning under a budget of moved weights: the best plan for new loads that is near enough to the old one.

Every layer gets a staircase: the score (by default balancedness) that each number of moves reaches. Its points come
from a local search that starts at the old placement, and from the placement that a planner would make afresh, with its
GPUs renamed to match. The integer program that spends replicas then spends moves over layers. This is done for the old
replicas per layer and for the new ones.

Axes: L layers, E experts, G GPUs, K slots of a GPU (padded with -1), S steps, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import Infeasible
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.objectives import most_slots, score, score_scale
from craftc.solvers.problem import BenefitCurves, Placement, Planner, PlanningProblem, Shares
from craftc.solvers.replanning.moves import (
    fit_slots,
    held_experts,
    keep_positions,
    match_gpus,
    match_nodes,
    moves_per_gpu,
)
from craftc.solvers.replay import placement_array, placements_of, replay, replay_steps
from craftc.solvers.search.path import search_path


@dataclass(frozen=True)
class OldLayer:
    """A layer in the plan in use."""

    placement: Placement
    """Experts of every GPU in slot order."""
    shares: Shares | None = None
    """The plan's own shares, None if copies share evenly."""

    @property
    def slots_G(self) -> tuple[int, ...]:
        return tuple(map(len, self.placement))


@dataclass(frozen=True)
class Replanned:
    """The plan found; experts that stay keep their slots."""

    placements: tuple[Placement, ...]
    """One per layer."""
    moved_bytes: int
    """Bytes of weights that all GPUs receive in total."""
    score_L: tuple[float, ...]
    """Of every layer, larger is better: balancedness, mean over steps, unless the problem has another objective. An
    unchanged layer counts with its old shares."""


@dataclass(frozen=True, eq=False)
class _Found:
    """State of a layer's search after a round."""

    moves: int
    score: float
    expert_GK: np.ndarray


@dataclass(frozen=True)
class _Point:
    """A placement that a layer could have; experts that stay keep their slots."""

    moves: int
    score: float
    placement: Placement


def replan(
    problem: PlanningProblem,
    planner: Planner,
    replicas_L: Sequence[int],
    old_L: Sequence[OldLayer],
    max_move_bytes: int,
) -> Replanned:
    """The best plan found whose moves take at most `max_move_bytes`; never worse on the loads than the old one.

    replicas_L: what `planner` would choose without an old plan. More bytes to move never make the result worse, and
    with enough of them it is no worse than the planner's own plan. Expert groups of the problem stay on their node, or
    the whole plan is made afresh. If the old replicas exceed `problem.budget_bytes`, only new replica counts are tried;
    raises Infeasible, with the bytes needed, if those need too many moves.
    """
    sizes_L = problem.expert_bytes_L
    kept_L = tuple(sum(old.slots_G) - experts for old, experts in zip(old_L, problem.experts_L, strict=True))
    spent_bytes = sum(count * size for count, size in zip(kept_L, sizes_L, strict=True))
    old_slots_LG = [old.slots_G for old in old_L]
    fresh = planner.place(problem, tuple(replicas_L))
    new_slots_LG = [tuple(map(len, placement)) for placement in fresh]
    choices: list[list[list[_Point]]] = []
    if spent_bytes <= problem.budget_bytes:
        choices.append(_points(problem, old_L, planner.place(problem, kept_L), old_slots_LG))
    if problem.groups > 1:
        choices.append([[point] for point in _fresh_points(problem, old_L, fresh, new_slots_LG)])
    elif new_slots_LG != old_slots_LG:
        choices.append(_points(problem, old_L, fresh, new_slots_LG))
    least_bytes = [_bytes_moved([points[0] for points in points_LP], sizes_L) for points_LP in choices]
    if min(least_bytes) > max_move_bytes:
        raise Infeasible(
            f"replanning: the old plan's replicas take {spent_bytes} bytes, the budget is {problem.budget_bytes}, and "
            f"plans within it move at least {min(least_bytes)} bytes; give --max-move {min(least_bytes)}B or more"
        )
    found = [
        _spend_moves(problem, points_LP, max_move_bytes - least)
        for points_LP, least in zip(choices, least_bytes, strict=True)
        if least <= max_move_bytes
    ]
    return max(found, key=lambda plan: (float(np.mean(plan.score_L)), -plan.moved_bytes))


def _spend_moves(problem: PlanningProblem, points_LP: Sequence[Sequence[_Point]], left_bytes: int) -> Replanned:
    """The best choice of one point per layer that takes at most `left_bytes` more than the first points."""
    extra = sorted({point.moves - points[0].moves for points in points_LP for point in points})
    score_LC = np.array([_staircase(points, extra) for points in points_LP])
    curves = BenefitCurves(tuple(extra), score_LC, score_LC)
    chosen = solve_allocation(
        curves, problem.expert_bytes_L, left_bytes, solver=problem.solver, time_limit_s=problem.time_limit_s
    )
    best_L = [
        max((point for point in points if point.moves - points[0].moves <= count), key=lambda point: point.score)
        for points, count in zip(points_LP, chosen.replicas_L, strict=True)
    ]
    return Replanned(
        tuple(point.placement for point in best_L),
        _bytes_moved(best_L, problem.expert_bytes_L),
        tuple(point.score for point in best_L),
    )


def _bytes_moved(point_L: Sequence[_Point], expert_bytes_L: Sequence[int]) -> int:
    return sum(point.moves * size for point, size in zip(point_L, expert_bytes_L, strict=True))


def _staircase(points: Sequence[_Point], extra: Sequence[int]) -> list[float]:
    """The best score within each of `extra` moves beyond those of the first point."""
    least = points[0].moves
    return [max(point.score for point in points if point.moves - least <= count) for count in extra]


def _points(
    problem: PlanningProblem,
    old_L: Sequence[OldLayer],
    fresh_L: Sequence[Placement],
    slots_LG: Sequence[tuple[int, ...]],
) -> list[list[_Point]]:
    """Points of every layer with the given slots, in order of moves; the first is nearest to the old placement."""
    if problem.layer_experts is not None:
        return _points_of_kinds(problem, old_L, fresh_L, slots_LG)
    counts_SLE = problem.counts_SLE
    load_LE = counts_SLE.sum(axis=0).astype(np.float64)
    start_L = [
        old.placement if old.slots_G == slots_G else fit_slots(old.placement, slots_G, load_E)
        for old, slots_G, load_E in zip(old_L, slots_LG, load_LE, strict=True)
    ]
    path = search_path(problem, placement_array(start_L), _barred(problem, old_L))
    layers = np.arange(problem.layers)
    slots_L = (path[0] >= 0).sum(axis=2).max(axis=1)
    score_PL = [score(problem, replay_steps(counts_SLE, layers, found), layers, slots_L) for found in path]
    holds_old_LGE = np.stack([held_experts(old.placement, problem.experts) for old in old_L])
    moves_PL = [_moves(holds_old_LGE, expert_LGK) for expert_LGK in path]
    kept_L = _scores(problem, [old.placement for old in old_L], [old.shares for old in old_L])
    fresh_score_L = _scores(problem, fresh_L)
    return [
        _points_of_layer(
            old_L[layer],
            [
                _Found(int(moves_L[layer]), float(score_L[layer]), expert_LGK[layer])
                for moves_L, score_L, expert_LGK in zip(moves_PL, score_PL, path, strict=True)
            ],
            _matched(problem, old_L[layer].placement, fresh_L[layer], slots_LG[layer]),
            float(fresh_score_L[layer]),
            float(kept_L[layer]),
        )
        for layer in layers.tolist()
    ]


def _points_of_kinds(
    problem: PlanningProblem,
    old_L: Sequence[OldLayer],
    fresh_L: Sequence[Placement],
    slots_LG: Sequence[tuple[int, ...]],
) -> list[list[_Point]]:
    """`_points` of layers with different numbers of experts."""
    points_LP: list[list[_Point]] = [[] for _ in old_L]
    for layers in problem.kinds:
        own, scale = problem.on_layers(layers), score_scale(problem, layers, problem.on_layers(layers))
        theirs = zip(*((old_L[layer], fresh_L[layer], slots_LG[layer]) for layer in layers), strict=True)
        for layer, points in zip(layers.tolist(), _points(own, *theirs), strict=True):
            points_LP[layer] = [replace(point, score=point.score * scale) for point in points]
    return points_LP


def _points_of_layer(
    old: OldLayer, searched: Sequence[_Found], fresh: Placement | None, fresh_score: float, kept_score: float
) -> list[_Point]:
    """The points worth having: more moves only for a better score."""
    found = list(searched)
    if fresh is not None:
        moves = sum(moves_per_gpu(old.placement, fresh))
        found.append(_Found(moves, fresh_score, placement_array([fresh])[0]))
    stays = old.slots_G == tuple((searched[0].expert_GK >= 0).sum(axis=1).tolist())
    # The old placement is a point with its own shares, whatever it reaches with even ones.
    best = [_Point(0, kept_score, old.placement)] if stays else []
    for state in sorted(found, key=lambda state: (state.moves, -state.score)):
        if (state.moves or not stays) and (not best or state.score > best[-1].score):
            new = placements_of(state.expert_GK[None])[0]
            best.append(_Point(state.moves, state.score, keep_positions(old.placement, new)))
    return best


def _fresh_points(
    problem: PlanningProblem,
    old_L: Sequence[OldLayer],
    fresh_L: Sequence[Placement],
    slots_LG: Sequence[tuple[int, ...]],
) -> list[_Point]:
    """Every layer planned afresh, with GPUs renamed to match the old placement best."""
    named_L = [
        _matched(problem, old.placement, fresh, slots_G) or fresh
        for old, fresh, slots_G in zip(old_L, fresh_L, slots_LG, strict=True)
    ]
    score_L = _scores(problem, named_L).tolist()
    return [
        _Point(sum(moves_per_gpu(old.placement, new)), reached, keep_positions(old.placement, new))
        for old, new, reached in zip(old_L, named_L, score_L, strict=True)
    ]


def _scores(
    problem: PlanningProblem, placements: Sequence[Placement], shares_L: Sequence[Shares | None] | None = None
) -> np.ndarray:
    """`score_L` of one placement per layer."""
    balancedness_SL = replay(problem.counts_SLE, placements, shares_L)
    return score(problem, balancedness_SL, np.arange(problem.layers), most_slots(placements))


def _matched(problem: PlanningProblem, old: Placement, new: Placement, slots_G: tuple[int, ...]) -> Placement | None:
    """`new` with GPUs renamed, node by node if groups must stay together."""
    if problem.groups > 1:
        return match_nodes(old, new, slots_G, problem.topology)
    return match_gpus(old, new, slots_G)


def _barred(problem: PlanningProblem, old_L: Sequence[OldLayer]) -> np.ndarray:
    """`barred_LEG` bool: GPUs that are not on the node of an expert's group; none without groups."""
    layers, experts, topology = problem.layers, problem.experts, problem.topology
    if problem.groups == 1:
        return np.zeros((layers, experts, topology.gpus), dtype=bool)
    holds_LGE = np.stack([held_experts(old.placement, experts) for old in old_L])
    holds_LNM = holds_LGE.reshape(layers, topology.nodes, -1, problem.groups, experts // problem.groups).any(
        axis=(2, 4)
    )
    allowed_LGE = holds_LNM.repeat(topology.gpus_per_node, axis=1).repeat(experts // problem.groups, axis=2)
    return ~allowed_LGE.transpose(0, 2, 1)


def _moves(holds_old_LGE: np.ndarray, expert_LGK: np.ndarray) -> np.ndarray:
    """`moves_L`: number of slots with an expert that their GPU did not hold before."""
    layer, gpu, slot = np.nonzero(expert_LGK >= 0)
    new = ~holds_old_LGE[layer, gpu, expert_LGK[layer, gpu, slot]]
    return np.bincount(layer, weights=new, minlength=len(expert_LGK)).astype(np.int64)
