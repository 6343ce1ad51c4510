"""Replicas per layer by dynamic programming over bytes: exact, and quick where the budget is few experts.

Axes: L layers, C candidate replica counts, U units of budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from craftc.errors import Unsupported
from craftc.solvers.problem import Allocation, BenefitCurves

_MAX_CELLS = 200_000_000


def allocate_exactly(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> Allocation:
    """The allocation with the largest benefit within the budget; among equals the one with the fewest bytes.

    Bytes are counted in units of the greatest common divisor of the expert sizes. Raises Unsupported if the table
    would have more than 200 million cells; the integer program has no such limit.
    """
    started = time.perf_counter()
    candidate_L = best_candidates(curves, _all_candidates(curves), expert_bytes_L, 0, budget_bytes)
    assert candidate_L is not None, "no replicas at all always fit"
    replicas_L = tuple(curves.candidates_C[candidate] for candidate in candidate_L)
    objective = sum(float(benefit_C[c]) for benefit_C, c in zip(curves.benefit_LC, candidate_L, strict=True))
    seconds = time.perf_counter() - started
    return Allocation(replicas_L, "optimal", objective, objective, "dynamic program", seconds)


def best_candidates(
    curves: BenefitCurves,
    tried_LC: Sequence[Sequence[int]],
    expert_bytes_L: Sequence[int],
    least_bytes: int,
    most_bytes: int,
) -> tuple[int, ...] | None:
    """The candidate of every layer with which the benefit is largest and the bytes are in `least_bytes..most_bytes`.

    tried_LC: positions, ascending, of the candidates of every layer that are tried. Among equals, the fewest bytes.
    None if no candidates take so many bytes. Raises Unsupported as `allocate_exactly` does.
    """
    size_L = _sizes_in_units(expert_bytes_L)
    most = _units(curves, expert_bytes_L, most_bytes)
    least = -(-least_bytes // math.gcd(*expert_bytes_L))
    best_U, chosen_LU = _table(curves, tried_LC, size_L, most)
    if least > most or best_U[least:].max() == -np.inf:
        return None
    spent = least + int(np.argmax(best_U[least:]))
    candidates: list[int] = []
    for layer in reversed(range(len(size_L))):
        candidates.append(int(chosen_LU[layer, spent]))
        spent -= curves.candidates_C[candidates[-1]] * size_L[layer]
    return tuple(reversed(candidates))


def cells(
    curves: BenefitCurves, tried_LC: Sequence[Sequence[int]], expert_bytes_L: Sequence[int], budget_bytes: int
) -> int:
    """How many sums `best_candidates` adds up: about 200 million a second."""
    return (_most_units(curves, expert_bytes_L, budget_bytes) + 1) * sum(map(len, tried_LC))


def best_benefits(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> np.ndarray:
    """`best_U`: the largest benefit for every budget up to `budget_bytes`, in units of the sizes' common divisor.

    Ends at the budget that gives every layer its last candidate. Raises Unsupported as `allocate_exactly` does.
    """
    size_L = _sizes_in_units(expert_bytes_L)
    best_U, _ = _table(curves, _all_candidates(curves), size_L, _units(curves, expert_bytes_L, budget_bytes))
    within_U: np.ndarray = np.maximum.accumulate(best_U)
    return within_U


def _all_candidates(curves: BenefitCurves) -> list[range]:
    return [range(len(curves.candidates_C))] * len(curves.balancedness_LC)


def _sizes_in_units(expert_bytes_L: Sequence[int]) -> list[int]:
    unit = math.gcd(*expert_bytes_L)
    return [size // unit for size in expert_bytes_L]


def _most_units(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> int:
    return min(budget_bytes, curves.candidates_C[-1] * sum(expert_bytes_L)) // math.gcd(*expert_bytes_L)


def _units(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> int:
    """Units of budget that the table must have. Raises Unsupported if they are too many."""
    units = _most_units(curves, expert_bytes_L, budget_bytes)
    if (units + 1) * len(expert_bytes_L) > _MAX_CELLS:
        raise Unsupported(
            f"dynamic program: {units} units of {math.gcd(*expert_bytes_L)} bytes over {len(expert_bytes_L)} layers "
            f"exceed {_MAX_CELLS} cells; use the integer program"
        )
    return units


def _table(
    curves: BenefitCurves, tried_LC: Sequence[Sequence[int]], size_L: Sequence[int], units: int
) -> tuple[np.ndarray, np.ndarray]:
    """`best_U`, the largest benefit at exactly so many units (-inf for none), and `chosen_LU`, the candidate of each
    layer if it were the last."""
    benefit_LC, filled = curves.benefit_LC, 0
    best_U = np.full(units + 1, -np.inf)
    best_U[0] = 0.0
    chosen_LU = np.zeros((len(size_L), units + 1), dtype=np.int16)
    for layer, size in enumerate(size_L):
        before_U, best_U = best_U, np.full(units + 1, -np.inf)
        before = filled
        for candidate in tried_LC[layer]:
            used = curves.candidates_C[candidate] * size
            if used > units:
                break
            end = min(units, used + before) + 1
            value_U = before_U[: end - used] + benefit_LC[layer, candidate]
            better_U = value_U > best_U[used:end]
            np.copyto(best_U[used:end], value_U, where=better_U)
            chosen_LU[layer, used:end][better_U] = candidate
            filled = max(filled, end - 1)
    return best_U, chosen_LU
