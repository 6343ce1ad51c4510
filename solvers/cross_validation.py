"""Cross-validation over steps: what a planner reaches on steps that it has not seen.

Steps are dealt into folds in turn. Each fold is left out once: the planner plans on the others and is judged on it.

Axes: S steps, F folds, L layers, C replica counts, B pairs of a count and a layer, X things that have factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import BenefitCurves, Planner, PlanningProblem
from craftc.solvers.replay import placement_array, replay_batch, replay_steps

_MOST_STEPS = 256
"""Most steps that are planned on and judged; if there are more, that many, evenly spaced."""
MOST_LAYERS = 12
"""Most layers in which replica counts are judged on steps left out."""
_MOST_COUNTS = 12
"""Most replica counts, including 0, that are judged; between them retention is interpolated."""


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
    """What `planner` reaches with `replicas_L` replicas, placed (or sketched) afresh for every fold that is left out.

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
        expert_LGK = _placed(problem.on_steps(~left_out_S), planner, replicas_L)
        reached_SL = replay_steps(problem.counts_SLE, np.arange(problem.layers), expert_LGK)
        unseen_FL[row] = reached_SL[left_out_S].mean(axis=0)
        seen_L += reached_SL[~left_out_S].mean(axis=0) / len(folds)
    return SeenAndUnseen(seen_L, unseen_FL)


def _placed(problem: PlanningProblem, planner: Planner, replicas_L: Sequence[int]) -> np.ndarray:
    """`expert_LGK` of what the planner sketches, or places if it does not sketch."""
    if planner.sketches:
        return planner.sketch(problem, np.arange(problem.layers), np.array(replicas_L))
    return placement_array(planner.place(problem, tuple(replicas_L)))


def retained_curves(
    problem: PlanningProblem, planner: Planner, own: BenefitCurves, fold_S: np.ndarray
) -> BenefitCurves:
    """`own` as far as it holds on steps left out: the benefit of every replica count times what is retained of it.

    own: the planner's curves on all steps. Every count is planned without each fold, in at most 12 layers, evenly
    spaced, and judged on the fold. What a single layer gains on a few steps is luck; retention is of a count, pooled
    over layers and folds, and drawn towards that of all counts as far as the scatter between folds explains the
    difference. It is at most 1, and negative where replicas harm. `planner` must be one that sketches.
    """
    problem, fold_S = _thinned(problem, fold_S)
    chosen = np.unique(np.linspace(0, problem.layers - 1, min(problem.layers, MOST_LAYERS)).round().astype(int))
    problem = problem.on_layers(chosen)
    # A count at which no layer's curve moves was not searched: it cannot be chosen.
    moves_C = np.flatnonzero((np.diff(own.value_LC, axis=1) != 0).any(axis=0)) + 1
    tried_C = np.unique(np.linspace(0, len(moves_C), _MOST_COUNTS).round().astype(int))
    tried_C = np.concatenate([[0], moves_C])[tried_C]
    count_C = np.array(own.candidates_C)[tried_C]
    layer_B = np.tile(np.arange(problem.layers), len(count_C))
    shape = (len(count_C), problem.layers)
    seen_FCL, unseen_FCL = [], []
    for fold in np.unique(fold_S):
        left_out_S = fold_S == fold
        seen = problem.on_steps(~left_out_S)
        expert_BGK = planner.sketch(seen, layer_B, np.repeat(count_C, problem.layers))
        seen_FCL.append(replay_batch(seen.counts_SLE, layer_B, expert_BGK).reshape(shape))
        unseen_FCL.append(replay_batch(problem.counts_SLE[left_out_S], layer_B, expert_BGK).reshape(shape))
    seen_CL = np.mean(seen_FCL, axis=0)
    unseen_CFL = np.stack(unseen_FCL, axis=1)
    retention_C = _factors(seen_CL - seen_CL[0], unseen_CFL - unseen_CFL[0])
    retention_C = np.interp(own.candidates_C, count_C[1:], retention_C[1:]) if len(count_C) > 1 else np.ones(1)
    # Without replicas, layers reach less on steps left out: in the layers that were not judged, as much less.
    lost = float((seen_CL[0] - unseen_CFL[0].mean(axis=0)).mean())
    without_L1 = own.balancedness_LC[:, :1] - lost
    gained_LC = own.balancedness_LC - own.balancedness_LC[:, :1]
    score_LC = None
    if own.score_LC is not None:
        score_LC = own.score_LC[:, :1] - lost * _score_per_balancedness(own) + retention_C * own.benefit_LC
    return BenefitCurves(own.candidates_C, without_L1 + retention_C * gained_LC, score_LC)


def _factors(benefit_XC: np.ndarray, unseen_XFC: np.ndarray) -> np.ndarray:
    """`factor_X` in -1..1: unseen over own benefit by least squares, drawn towards the factor of all.

    Empirical Bayes: the pull is stronger the more scatter between folds explains the difference.
    """
    squared_X = np.square(benefit_XC).sum(axis=1)
    product_FX = np.einsum("xc,xfc->fx", benefit_XC, unseen_XFC)
    known = squared_X > 0
    if not known.any():
        return np.zeros(len(squared_X))
    overall = product_FX.mean(axis=0).sum() / squared_X.sum()
    size_X = np.where(known, squared_X, 1.0)
    own_FX = np.where(known, product_FX / size_X, overall)
    own_X = own_FX.mean(axis=0)
    scatter = float((own_FX.var(axis=0, ddof=1) / len(own_FX) * squared_X).mean())
    between = max(0.0, float((np.square(own_X - overall) * squared_X).mean()) - scatter) / float(squared_X.mean())
    trust_X = between * squared_X / np.maximum(between * squared_X + scatter, 1e-300)
    factor_X: np.ndarray = np.clip(overall + trust_X * (own_X - overall), -1.0, 1.0)
    return factor_X


def _score_per_balancedness(own: BenefitCurves) -> np.ndarray:
    """`rate_L1`: score gained per balancedness gained, by a layer's own curve; 0 where the curve is flat."""
    span_L = own.balancedness_LC.max(axis=1) - own.balancedness_LC.min(axis=1)
    rate_L = np.divide(np.ptp(own.value_LC, axis=1), span_L, out=np.zeros_like(span_L), where=span_L > 1e-9)
    return rate_L[:, None]


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
