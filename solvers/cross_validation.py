"""Cross-validation over steps: what a planner reaches on steps that it has not seen.

Steps are dealt into folds in turn. Each fold is left out once: the planner plans on the others and is judged on it.

Axes: S steps, F folds, L layers, C candidate replica counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import BenefitCurves, Planner, PlanningProblem
from craftc.solvers.replay import replay

_MOST_STEPS = 256
"""Most steps that are planned on and judged; if there are more, that many, evenly spaced."""
_MOST_COUNTS = 4
"""Most replica counts above 0 at which curves are validated."""


@dataclass(frozen=True, eq=False)
class SeenAndUnseen:
    """Balancedness of given replica counts on steps planned on and on steps left out."""

    seen_L: np.ndarray
    """On the steps that each plan was made from, mean over steps and folds, in 0..1."""
    unseen_FL: np.ndarray
    """On every fold, with the plan made without it, mean over its steps, in 0..1."""


def deal_steps(steps: int, folds: int, step_names: Sequence[str] = ()) -> np.ndarray:
    """`fold_S`: the fold of every step, dealt in turn; fold sizes differ by at most one step.

    step_names: workload of every step; if given, steps are dealt workload by workload, so that all folds hold about the
    same part of each. If there are fewer steps than folds, every step is a fold. Raises BadInput below 2 folds.
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
    """What `planner` reaches with `replicas_L` replicas, placed afresh for every fold that is left out.

    fold_S: the fold of every step, from `deal_steps`. Raises BadInput if there are fewer than two folds.
    """
    problem, fold_S = _thinned(problem, fold_S)
    folds = np.unique(fold_S)
    if len(folds) < 2:
        raise BadInput("cross-validation needs steps in at least 2 folds: record more steps")
    seen_L = np.zeros(problem.layers)
    unseen_FL = np.empty((len(folds), problem.layers))
    for row, fold in enumerate(folds):
        left_out_S = fold_S == fold
        placements = planner.place(problem.on_steps(~left_out_S), tuple(replicas_L))
        reached_SL = replay(problem.counts_SLE, placements)
        unseen_FL[row] = reached_SL[left_out_S].mean(axis=0)
        seen_L += reached_SL[~left_out_S].mean(axis=0) / len(folds)
    return SeenAndUnseen(seen_L, unseen_FL)


def cross_validated_curves(
    problem: PlanningProblem, planner: Planner, own: BenefitCurves, fold_S: np.ndarray
) -> BenefitCurves:
    """`own` corrected on steps left out: balancedness without replicas is measured there, and each layer's benefits are
    scaled to those found there.

    own: the planner's curves on all steps. At most four of its counts are planned without each fold and judged on it.
    Single points judged on few steps scatter by more than neighbouring counts differ: choosing the best of them would
    be luck. So they only give one factor per layer, which also scales the layer's score.
    """
    last = len(own.candidates_C) - 1
    tried = np.unique(np.linspace(min(1, last), last, _MOST_COUNTS).round().astype(int))
    unseen_CFL = np.stack(
        [
            seen_and_unseen(problem, planner, (own.candidates_C[number],) * problem.layers, fold_S).unseen_FL
            for number in (0, *tried.tolist())
        ]
    )
    benefit_LC = own.balancedness_LC - own.balancedness_LC[:, :1]
    factor_L1 = _factors(benefit_LC[:, tried], unseen_CFL[1:] - unseen_CFL[0])[:, None]
    without_L1 = unseen_CFL[0].mean(axis=0)[:, None]
    score_LC = None if own.score_LC is None else own.score_LC[:, :1] + factor_L1 * own.benefit_LC
    return BenefitCurves(own.candidates_C, without_L1 + factor_L1 * benefit_LC, score_LC)


def _factors(benefit_LC: np.ndarray, unseen_CFL: np.ndarray) -> np.ndarray:
    """`factor_L`, at least 0: unseen over own benefit by least squares, drawn towards the factor of all layers.

    Empirical Bayes: the pull is stronger the more scatter between folds explains the difference between layers.
    """
    squared_L = np.square(benefit_LC).sum(axis=1)
    product_FL = np.einsum("lc,cfl->fl", benefit_LC, unseen_CFL)
    known = squared_L > 0
    if not known.any():
        return np.zeros(len(squared_L))
    overall = product_FL.mean(axis=0).sum() / squared_L.sum()
    size_L = np.where(known, squared_L, 1.0)
    own_FL = np.where(known, product_FL / size_L, overall)
    own_L = own_FL.mean(axis=0)
    scatter = float((own_FL.var(axis=0, ddof=1) / len(own_FL) * squared_L).mean())
    between = max(0.0, float((np.square(own_L - overall) * squared_L).mean()) - scatter) / float(squared_L.mean())
    trust_L = between * squared_L / np.maximum(between * squared_L + scatter, 1e-300)
    factor_L: np.ndarray = np.maximum(overall + trust_L * (own_L - overall), 0.0)
    return factor_L


def _thinned(problem: PlanningProblem, fold_S: np.ndarray) -> tuple[PlanningProblem, np.ndarray]:
    """At most 256 steps, evenly spaced within every fold."""
    if len(fold_S) <= _MOST_STEPS:
        return problem, fold_S
    kept_S = np.zeros(len(fold_S), dtype=bool)
    folds = np.unique(fold_S)
    for fold in folds:
        own = np.flatnonzero(fold_S == fold)
        kept_S[own[np.linspace(0, len(own) - 1, min(len(own), _MOST_STEPS // len(folds))).round().astype(int)]] = True
    return problem.on_steps(kept_S), fold_S[kept_S]
