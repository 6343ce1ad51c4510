"""Cross-validation over steps: what a planner reaches on steps that it has not seen.

Steps are dealt into folds in turn. Each fold is left out once: the planner plans on the others and is judged on it.

Axes: S steps, L layers, C candidate replica counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import BenefitCurves, Planner, PlanningProblem
from craftc.solvers.replay import replay

_MOST_STEPS = 256
"""Steps that are planned on and judged; where there are more, so many evenly spaced ones."""


@dataclass(frozen=True, eq=False)
class SeenAndUnseen:
    """Balancedness of one choice of replica counts on steps planned on, and on steps left out."""

    seen_L: np.ndarray
    """On the steps that each plan was made from: mean over these and over folds, in 0..1."""
    unseen_L: np.ndarray
    """Every step judged by the plan made without it, mean over steps, in 0..1."""


def deal_steps(steps: int, folds: int, step_names: Sequence[str] = ()) -> np.ndarray:
    """`fold_S`: the fold of every step, dealt in turn, so that folds are of one size up to one step.

    step_names: workloads; given, the steps of one workload are dealt after those of another, so that folds hold alike
    parts of each. Where there are fewer steps than folds, every step is a fold. Raises BadInput below 2 folds.
    """
    if folds < 2:
        raise BadInput(f"cross-validation needs at least 2 folds, got {folds}")
    fold_S = np.empty(steps, dtype=np.int64)
    first = {name: number for number, name in reversed(list(enumerate(step_names)))}
    order_S = np.argsort([first[name] for name in step_names], kind="stable") if step_names else np.arange(steps)
    fold_S[order_S] = np.arange(steps) % min(folds, max(1, steps))
    return fold_S


def seen_and_unseen(
    problem: PlanningProblem, planner: Planner, replicas_L: Sequence[int], fold_S: np.ndarray
) -> SeenAndUnseen:
    """What `planner` reaches with `replicas_L` replicas, placed anew for every fold that is left out.

    fold_S: the fold of every step, from `deal_steps`. Raises BadInput where there are not at least two folds.
    """
    problem, fold_S = _thinned(problem, fold_S)
    folds = np.unique(fold_S)
    if len(folds) < 2:
        raise BadInput("cross-validation needs steps in at least 2 folds: record more steps")
    seen_L = np.zeros(problem.layers)
    unseen_SL = np.empty((len(fold_S), problem.layers))
    for fold in folds:
        left_out_S = fold_S == fold
        placements = planner.place(_on_steps(problem, ~left_out_S), tuple(replicas_L))
        reached_SL = replay(problem.counts_SLE, placements)
        unseen_SL[left_out_S] = reached_SL[left_out_S]
        seen_L += reached_SL[~left_out_S].mean(axis=0) / len(folds)
    return SeenAndUnseen(seen_L, unseen_SL.mean(axis=0))


def cross_validated_curves(
    problem: PlanningProblem, planner: Planner, candidates_C: Sequence[int], fold_S: np.ndarray
) -> BenefitCurves:
    """Benefit curves on steps left out: every candidate of every layer planned without them, each left out once.

    Unlike a planner's own curves they may fall: there, more replicas fit the steps seen and no others.
    """
    unseen_CL = [
        seen_and_unseen(problem, planner, (count,) * problem.layers, fold_S).unseen_L for count in candidates_C
    ]
    return BenefitCurves(tuple(candidates_C), np.stack(unseen_CL, axis=1))


def _thinned(problem: PlanningProblem, fold_S: np.ndarray) -> tuple[PlanningProblem, np.ndarray]:
    """At most 256 steps, evenly spaced within every fold."""
    if len(fold_S) <= _MOST_STEPS:
        return problem, fold_S
    kept_S = np.zeros(len(fold_S), dtype=bool)
    folds = np.unique(fold_S)
    for fold in folds:
        own = np.flatnonzero(fold_S == fold)
        kept_S[own[np.linspace(0, len(own) - 1, min(len(own), _MOST_STEPS // len(folds))).round().astype(int)]] = True
    return _on_steps(problem, kept_S), fold_S[kept_S]


def _on_steps(problem: PlanningProblem, kept_S: np.ndarray) -> PlanningProblem:
    return replace(problem, counts_SLE=problem.counts_SLE[kept_S])
