"""What a plan is optimised for: balancedness, step time, or the worst workload.

Axes: S steps, L layers, B placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import Placement, Planner, PlanningProblem
from craftc.solvers.replay import replay

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


def score(problem: PlanningProblem, balancedness_SB: np.ndarray, layer_B: np.ndarray) -> np.ndarray:
    """`score_B`, larger is better: weighted mean over steps of balancedness or, for step time, of -max / mean GPU load.

    balancedness_SB: from `replay_steps`; layer_B: the layer of every placement. For step time, the negated scores of
    one placement per layer add up to L times the step time in units of perfect balance.
    """
    weight_SB = step_weights(problem)[:, layer_B]
    if problem.objective == "step-time":
        return -(weight_SB / np.maximum(balancedness_SB, 1e-9)).sum(axis=0)
    score_B: np.ndarray = (weight_SB * balancedness_SB).sum(axis=0)
    return score_B


def step_time(counts_SLE: np.ndarray, balancedness_SL: np.ndarray) -> float:
    """Max GPU load summed over steps and layers, in units of perfect balance: at least 1, lower is better."""
    tokens_SL = counts_SLE.sum(axis=2)
    return float((tokens_SL / np.maximum(balancedness_SL, 1e-9)).sum() / tokens_SL.sum())


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
