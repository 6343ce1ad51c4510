"""What a plan is optimised for: balancedness, step time, or the worst workload.

Axes: S steps, L layers, B placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import Placement, Planner, PlanningProblem
from craftc.solvers.replay import replay, replay_steps

_ROUNDS = 8
"""Number of plans made to find the workload weights."""
_RATE = 30.0
"""How fast a workload that lags behind gains weight: by a factor of e per 1 / 30 of balancedness."""


def step_weights(problem: PlanningProblem) -> np.ndarray:
    """`weight_SL`: how much every step counts in every layer, summing to 1 per layer on average.

    For step time, a step also counts by the tokens that it routes: all of them wait for its straggler.
    """
    steps, layers, _ = problem.counts_SLE.shape
    weight_S = np.ones(steps) if problem.step_weight_S is None else problem.step_weight_S
    weight_SL = np.repeat(weight_S[:, None].astype(np.float64), layers, axis=1)
    if problem.objective == "step-time":
        weight_SL *= problem.counts_SLE.sum(axis=2)
    return weight_SL * (layers / weight_SL.sum())


def score(
    problem: PlanningProblem, balancedness_SB: np.ndarray, layer_B: np.ndarray, slots_B: np.ndarray | None = None
) -> np.ndarray:
    """`score_B`, larger is better: weighted mean over steps of balancedness or, for step time, of -max / mean GPU time.

    balancedness_SB: from `replay_steps`; layer_B: the layer of every placement; slots_B: the most slots that a GPU has
    in it, which count only for step time with `tokens_per_slot`. For step time, the negated scores of one placement per
    layer add up to L times the step time in units of perfect balance.
    """
    weight_SB = step_weights(problem)[:, layer_B]
    if problem.objective == "step-time":
        floor_SB = None if slots_B is None else slot_floor(problem)[:, layer_B] * slots_B
        return -(weight_SB * _gpu_time(balancedness_SB, floor_SB)).sum(axis=0)
    score_B: np.ndarray = (weight_SB * balancedness_SB).sum(axis=0)
    return score_B


def replay_and_score(
    problem: PlanningProblem, layer_B: np.ndarray, expert_BGK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`balancedness_B`, mean over steps, and `score_B` of many placements at once, as in `replay_steps` and `score`."""
    balancedness_SB = replay_steps(problem.counts_SLE, layer_B, expert_BGK)
    slots_B = (expert_BGK >= 0).sum(axis=2).max(axis=1)
    return balancedness_SB.mean(axis=0), score(problem, balancedness_SB, layer_B, slots_B)


def best_score(problem: PlanningProblem) -> np.ndarray:
    """`score_L`: what `score` gives perfectly balanced layers."""
    weight_L = step_weights(problem).sum(axis=0)
    return -weight_L if problem.objective == "step-time" else weight_L


def score_scale(problem: PlanningProblem, layers: np.ndarray, own: PlanningProblem) -> float:
    """What scores of `own`, the problem on some `layers`, are multiplied by to be scores of the whole problem."""
    return float(step_weights(problem)[:, layers].sum() / step_weights(own).sum())


def slot_floor(problem: PlanningProblem) -> np.ndarray:
    """`floor_SL`: time of one slot of a GPU in units of its mean load; 0 where nothing is routed.

    However few tokens a GPU has, a step takes it at least this long for each of its slots: their weights must be read.
    """
    mean_SL = problem.counts_SLE.sum(axis=2) / problem.topology.gpus
    return np.divide(problem.tokens_per_slot, mean_SL, out=np.zeros(mean_SL.shape), where=mean_SL > 0)


def step_time(counts_SLE: np.ndarray, balancedness_SL: np.ndarray, floor_SL: np.ndarray | None = None) -> float:
    """Max GPU time summed over steps and layers, in units of perfect balance: at least 1, lower is better.

    floor_SL: the least time of the GPU with the most slots, in units of the mean GPU load: `slot_floor` times slots.
    """
    tokens_SL = counts_SLE.sum(axis=2)
    return float((tokens_SL * _gpu_time(balancedness_SL, floor_SL)).sum() / tokens_SL.sum())


def placed_step_time(problem: PlanningProblem, balancedness_SL: np.ndarray, placements: Sequence[Placement]) -> float:
    """`step_time` of one placement per layer, whatever the objective of `problem`."""
    return step_time(problem.counts_SLE, balancedness_SL, slot_floor(problem) * most_slots(placements))


def most_slots(placements: Sequence[Placement]) -> np.ndarray:
    """`slots_B`: the most slots that a GPU has in each placement."""
    return np.array([max(map(len, placement)) for placement in placements])


def _gpu_time(balancedness_X: np.ndarray, floor_X: np.ndarray | None) -> np.ndarray:
    """Time of the slowest GPU in units of the mean GPU load: its tokens, or its slots if they take longer."""
    time_X: np.ndarray = 1 / np.maximum(balancedness_X, 1e-9)
    return time_X if floor_X is None else np.maximum(time_X, floor_X)


def workload_balancedness(balancedness_SL: np.ndarray, workload_S: Sequence[str]) -> dict[str, float]:
    """Balancedness of every workload: mean over its steps and all layers, in order of first appearance."""
    name_S = np.array(workload_S)
    return {name: float(balancedness_SL[name_S == name].mean()) for name in dict.fromkeys(workload_S)}


def worst_workload_weights(problem: PlanningProblem, planner: Planner, workload_S: Sequence[str]) -> np.ndarray:
    """`step_weight_S` under which `planner` serves the worst workload best.

    Multiplicative weights: plan, give more weight to workloads that lag behind, repeat; the weights of the best plan
    are returned. At first all workloads weigh the same, however many steps they have. Raises BadInput if the steps have
    no workload names.
    """
    if len(workload_S) != len(problem.counts_SLE):
        raise BadInput(
            f"objective worst-workload: {len(workload_S)} workload names for {len(problem.counts_SLE)} steps; "
            f"give loads with step_names"
        )
    name_S = np.array(workload_S)
    names, workload_of_S, steps_W = np.unique(name_S, return_inverse=True, return_counts=True)
    weight_W = np.ones(len(names))
    best, best_weight_S = -np.inf, np.ones(len(name_S))
    for _ in range(_ROUNDS if len(names) > 1 else 1):
        weight_S = (weight_W / steps_W)[workload_of_S]
        weight_S *= len(weight_S) / weight_S.sum()
        reached = workload_balancedness(
            replay(problem.counts_SLE, _planned(replace(problem, step_weight_S=weight_S), planner)), workload_S
        )
        reached_W = np.array([reached[str(name)] for name in names])
        if reached_W.min() > best:
            best, best_weight_S = float(reached_W.min()), weight_S
        weight_W = weight_W * np.exp(_RATE * (reached_W.mean() - reached_W))
        weight_W = np.maximum(weight_W / weight_W.max(), 1e-3)
    return best_weight_S


def _planned(problem: PlanningProblem, planner: Planner) -> tuple[Placement, ...]:
    return planner.place(problem, planner.allocate(problem, planner.estimate(problem)).replicas_L)
