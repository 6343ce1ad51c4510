"""Replicas per layer by Dantzig's rule: a quick feasible allocation and a proven upper bound for every other one.

Axes: L layers, C candidate replica counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from craftc.solvers.problem import Allocation, BenefitCurves


def greedy_allocation(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> Allocation:
    """Steps of the concave hulls of the curves, best benefit per byte first, while they fit.

    `bound` is the value of the linear relaxation (the first step that does not fit taken in part): no allocation of
    these curves within the budget exceeds it.
    """
    started = time.perf_counter()
    steps = sorted(
        (
            (-(gain / size), layer, order, gain, size, count)
            for layer, expert_bytes in enumerate(expert_bytes_L)
            for order, (gain, size, count) in enumerate(_hull_steps(curves, layer, expert_bytes))
        ),
    )
    replicas_L = [0] * len(expert_bytes_L)
    left, objective, bound = budget_bytes, 0.0, None
    blocked: set[int] = set()
    for _, layer, _, gain, size, count in steps:
        if size > left and bound is None:
            bound = objective + gain * left / size
        if size > left or layer in blocked:
            blocked.add(layer)
            continue
        replicas_L[layer] = count
        left -= size
        objective += gain
    final_bound = objective if bound is None else bound
    status = "optimal" if bound is None else "heuristic"
    seconds = time.perf_counter() - started
    return Allocation(tuple(replicas_L), status, objective, final_bound, "greedy", seconds)


def undominated(benefit_C: np.ndarray) -> list[int]:
    """Positions of the candidates that buy more than every cheaper one; the others need never be chosen."""
    best, kept = -np.inf, []
    for candidate, benefit in enumerate(benefit_C.tolist()):
        if benefit > best:
            best = benefit
            kept.append(candidate)
    return kept


def _hull_steps(curves: BenefitCurves, layer: int, expert_bytes: int) -> list[tuple[float, int, int]]:
    """(gain, bytes, replicas after) of every step along one curve's concave hull from 0 replicas up."""
    benefit_C = curves.benefit_LC[layer]
    corners = [0]
    for candidate in undominated(benefit_C)[1:]:
        while len(corners) > 1 and not _is_concave(curves.candidates_C, benefit_C, *corners[-2:], candidate):
            corners.pop()
        corners.append(candidate)
    return [
        (
            float(benefit_C[after] - benefit_C[before]),
            (curves.candidates_C[after] - curves.candidates_C[before]) * expert_bytes,
            curves.candidates_C[after],
        )
        for before, after in itertools.pairwise(corners)
    ]


def _is_concave(candidates_C: Sequence[int], benefit_C: np.ndarray, first: int, middle: int, last: int) -> bool:
    """Whether the middle point lies above the line from the first to the last."""
    rise = (benefit_C[middle] - benefit_C[first]) * (candidates_C[last] - candidates_C[first])
    return bool(rise > (benefit_C[last] - benefit_C[first]) * (candidates_C[middle] - candidates_C[first]))
