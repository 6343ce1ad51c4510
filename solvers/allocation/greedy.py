"""Replicas per layer by Dantzig's rule: a quick allocation, a proven bound, and which candidates can still matter.

Axes: L layers, C candidate replica counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from craftc.solvers.allocation.hull import concave_hull
from craftc.solvers.problem import Allocation, BenefitCurves


def greedy_allocation(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> Allocation:
    """Takes steps of the curves' concave hulls, best benefit per byte first, while they fit; then what still fits.

    `bound` is the value of the linear relaxation (the first step that does not fit is taken in part): no allocation of
    these curves within the budget exceeds it.
    """
    started = time.perf_counter()
    chosen_L = np.zeros(len(expert_bytes_L), dtype=np.int64)
    left, relaxed, bound = budget_bytes, 0.0, None
    blocked: set[int] = set()
    for slope, layer, candidate, size in _hull_steps(curves, expert_bytes_L):
        if size > left and bound is None:
            bound = relaxed + slope * left
        if size > left or layer in blocked:
            blocked.add(layer)
            continue
        chosen_L[layer] = candidate
        left -= size
        relaxed += slope * size
    _fill(chosen_L, curves, expert_bytes_L, left)
    objective = float(curves.benefit_LC[np.arange(len(chosen_L)), chosen_L].sum())
    replicas_L = tuple(curves.candidates_C[candidate] for candidate in chosen_L)
    seconds = time.perf_counter() - started
    if bound is None:
        return Allocation(replicas_L, "optimal", objective, objective, "greedy", seconds)
    return Allocation(replicas_L, "heuristic", objective, max(bound, objective), "greedy", seconds)


def candidates_that_matter(
    curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int, objective: float
) -> list[list[int]]:
    """Positions, per layer, of the candidates that an allocation better than `objective` can contain.

    Left out are dominated candidates (another one buys as much for no more bytes), and those with which even the
    Lagrangian relaxation, at the linear relaxation's price per byte, does not reach `objective`. Candidate 0 always
    stays.
    """
    price = price_per_byte(curves, expert_bytes_L, budget_bytes)
    cost_LC = price * np.outer(np.asarray(expert_bytes_L, dtype=np.float64), curves.candidates_C)
    value_LC = curves.benefit_LC - cost_LC
    best_L = value_LC.max(axis=1)
    reach_LC = best_L.sum() + price * budget_bytes - best_L[:, None] + value_LC
    margin = 1e-9 * max(1.0, abs(objective))
    return [
        [c for c in _undominated(curves.benefit_LC[layer]) if c == 0 or reach_LC[layer, c] >= objective - margin]
        for layer in range(len(expert_bytes_L))
    ]


def _undominated(benefit_C: np.ndarray) -> list[int]:
    """Positions of the candidates that buy more than every cheaper one."""
    before_C = np.concatenate([[-np.inf], np.maximum.accumulate(benefit_C)[:-1]])
    return np.flatnonzero(benefit_C > before_C).tolist()


def _hull_steps(curves: BenefitCurves, expert_bytes_L: Sequence[int]) -> list[tuple[float, int, int, int]]:
    """(benefit per byte, layer, candidate after, bytes) of every step along the curves' concave hulls, best first."""
    steps = []
    for layer, expert_bytes in enumerate(expert_bytes_L):
        benefit_C = curves.benefit_LC[layer].tolist()
        kept = _undominated(curves.benefit_LC[layer])
        corners = concave_hull([curves.candidates_C[c] for c in kept], [benefit_C[c] for c in kept])
        for before, after in itertools.pairwise(kept[corner] for corner in corners):
            size = (curves.candidates_C[after] - curves.candidates_C[before]) * expert_bytes
            steps.append(((benefit_C[after] - benefit_C[before]) / size, layer, after, size))
    return sorted(steps, key=lambda step: (-step[0], step[1], step[2]))


def price_per_byte(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> float:
    """Benefit per byte of the first hull step that does not fit, 0 if all fit."""
    left = budget_bytes
    for slope, _, _, size in _hull_steps(curves, expert_bytes_L):
        left -= size
        if left < 0:
            return slope
    return 0.0


def _fill(chosen_L: np.ndarray, curves: BenefitCurves, expert_bytes_L: Sequence[int], left: int) -> None:
    """Change one layer at a time to the candidate that gains most and still fits, until none gains."""
    counts_C = np.asarray(curves.candidates_C)
    sizes_L = np.asarray(expert_bytes_L)
    layers = np.arange(len(chosen_L))
    while True:
        more_LC = (counts_C - counts_C[chosen_L][:, None]) * sizes_L[:, None]
        gain_LC = curves.benefit_LC - curves.benefit_LC[layers, chosen_L][:, None]
        gain_LC = np.where(more_LC <= left, gain_LC, -np.inf)
        layer, candidate = np.unravel_index(int(gain_LC.argmax()), gain_LC.shape)
        if gain_LC[layer, candidate] <= 0:
            return
        chosen_L[layer] = candidate
        left -= int(more_LC[layer, candidate])
