"""Benefit curves from a search: which replica counts to try, and in which layers they can still matter.

Axes: L layers, C candidate replica counts, B problems (a layer and a replica count).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from craftc.solvers.allocation.greedy import price_per_byte
from craftc.solvers.objectives import best_score
from craftc.solvers.problem import BenefitCurves, PlanningProblem

Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From layers and replica counts, both `[B]`, to `balancedness_B` and `score_B` of the placements found."""
_FIRST = 4
"""Counts up to this are tried in every layer; then each doubling is tried where it can matter."""
_DENSE = (64, 1_000)
"""All counts are tried if they are at most so many in a layer, and in all layers."""


def replica_candidates(problem: PlanningProblem, most_copies: int | None = None) -> tuple[int, ...]:
    """The counts to try in every layer, ascending from 0, as far as the budget and full replication allow.

    All of them in small problems; else they are closest where curves bend, include those that make the slots of a layer
    even, and end at the most.
    most_copies: most copies of an expert, by default one on every GPU.
    """
    experts, gpus = problem.experts, problem.topology.gpus
    most = min(problem.budget_bytes // min(problem.expert_bytes_L), experts * ((most_copies or gpus) - 1))
    if most <= _DENSE[0] and most * problem.layers <= _DENSE[1]:
        return tuple(range(most + 1))
    powers = [2**power for power in range(most.bit_length())]
    finer = [5 * power // 4 for power in powers if 8 <= power <= gpus // 4]
    even = [-experts % gpus + gpus * factor for factor in (0, *(f for p in powers for f in (p, 3 * p // 2)))]
    counts = {*powers, *(3 * power // 2 for power in powers), *finer, *even, most}
    return (0, *sorted(count for count in counts if 0 < count <= most))


def searched_curves(problem: PlanningProblem, candidates: tuple[int, ...], judge: Judge) -> BenefitCurves:
    """Curves over `candidates`, searched from few replicas to many.

    A count is left out in a layer, as no better than the count before, if even a perfect balance there would cost more
    replicas than what a replica gains elsewhere at this budget.
    """
    count_C = np.array(candidates)
    shape = (problem.layers, len(count_C))
    balancedness_LC, score_LC = np.zeros(shape), np.zeros(shape)
    wave_C = np.ceil(np.log2(np.maximum(count_C, _FIRST))).astype(int)
    for wave in np.unique(wave_C).tolist():
        columns = np.flatnonzero(wave_C == wave)
        matters_LC = np.ones((problem.layers, len(columns)), dtype=bool)
        if columns[0] > 0:
            known = BenefitCurves(candidates[: columns[0]], balancedness_LC[:, : columns[0]], score_LC[:, : columns[0]])
            matters_LC = _can_matter(problem, known, count_C[columns])
            balancedness_LC[:, columns] = balancedness_LC[:, columns[0] - 1, None]
            score_LC[:, columns] = score_LC[:, columns[0] - 1, None]
        layer_B, number_B = np.nonzero(matters_LC)
        if not layer_B.size:
            continue
        column_B = columns[number_B]
        balancedness_LC[layer_B, column_B], score_LC[layer_B, column_B] = judge(layer_B, count_C[column_B])
    return BenefitCurves(candidates, balancedness_LC, score_LC)


def _can_matter(problem: PlanningProblem, known: BenefitCurves, count_C: np.ndarray) -> np.ndarray:
    """`matters_LC`: whether perfect balance with so many replicas would be worth their price beside what is known."""
    size_L = np.array(problem.expert_bytes_L, dtype=np.float64)
    price = price_per_byte(known, problem.expert_bytes_L, problem.budget_bytes)
    worth_L = (known.value_LC - price * np.outer(size_L, known.candidates_C)).max(axis=1)
    matters_LC: np.ndarray = best_score(problem)[:, None] - price * np.outer(size_L, count_C) > worth_L[:, None] + 1e-9
    return matters_LC
