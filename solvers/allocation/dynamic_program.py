"""Replicas per layer by dynamic programming over bytes: exact, the oracle of the integer program.

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
    size_L = _sizes_in_units(expert_bytes_L)
    best_U, chosen_LU = _table(curves, size_L, _units(curves, expert_bytes_L, budget_bytes))
    left = int(np.argmax(best_U))
    objective = float(best_U[left])
    replicas: list[int] = []
    for layer in reversed(range(len(size_L))):
        count = curves.candidates_C[chosen_LU[layer, left]]
        replicas.append(count)
        left -= count * size_L[layer]
    seconds = time.perf_counter() - started
    return Allocation(tuple(reversed(replicas)), "optimal", objective, objective, "dynamic program", seconds)


def best_benefits(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> np.ndarray:
    """`best_U`: the largest benefit for every budget up to `budget_bytes`, in units of the sizes' common divisor.

    Ends at the budget that gives every layer its last candidate. Raises Unsupported as `allocate_exactly` does.
    """
    size_L = _sizes_in_units(expert_bytes_L)
    best_U, _ = _table(curves, size_L, _units(curves, expert_bytes_L, budget_bytes))
    return best_U


def _sizes_in_units(expert_bytes_L: Sequence[int]) -> list[int]:
    unit = math.gcd(*expert_bytes_L)
    return [size // unit for size in expert_bytes_L]


def _units(curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int) -> int:
    """Units of budget that the table must have. Raises Unsupported if they are too many."""
    unit = math.gcd(*expert_bytes_L)
    units = min(budget_bytes, curves.candidates_C[-1] * sum(expert_bytes_L)) // unit
    if (units + 1) * len(expert_bytes_L) > _MAX_CELLS:
        raise Unsupported(
            f"dynamic program: {units} units of {unit} bytes over {len(expert_bytes_L)} layers exceed {_MAX_CELLS} "
            f"cells; use the integer program"
        )
    return units


def _table(curves: BenefitCurves, size_L: Sequence[int], units: int) -> tuple[np.ndarray, np.ndarray]:
    """`best_U`, the largest benefit within each budget, and `chosen_LU`, each layer's candidate if it were the last."""
    best_U = np.zeros(units + 1)
    chosen_LU = np.zeros((len(size_L), units + 1), dtype=np.int32)
    for layer, size in enumerate(size_L):
        before_U, best_U = best_U, np.full(units + 1, -np.inf)
        for candidate, count in enumerate(curves.candidates_C):
            used = count * size
            if used > units:
                break
            value_U = before_U[: units + 1 - used] + curves.benefit_LC[layer, candidate]
            better_U = value_U > best_U[used:]
            best_U[used:][better_U] = value_U[better_U]
            chosen_LU[layer, used:][better_U] = candidate
    return best_U, chosen_LU
