"""`--budget auto`: how many replicas pay for themselves, and the curve behind the choice.

CRAFT recommends the number of replicas with the highest gain per replica. Gains shrink as replicas are added, so taken
literally that is the first one. The rule here compares the next replica with the average one:

    The useful range ends at the smallest number of replicas per GPU that reaches 99% of the largest gain.
    The choice is the largest number in it whose last replica per GPU gains at least the mean per replica of that range.
    No replicas are bought if no number of them raises balancedness by 0.005, or shortens step time by 0.5%.

A gain is balancedness gained or, in plans made for step time, step time saved. In other words, the choice is the point
of the curve's concave hull that is farthest above the straight line from no replicas to the end of the range. Up to it
a replica buys more than the average one, beyond it less.

Axes: L layers, C candidate replica counts, U units of budget, R replicas per GPU.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import Infeasible, Unsupported
from craftc.solvers.allocation.dynamic_program import best_benefits
from craftc.solvers.allocation.greedy import greedy_allocation
from craftc.solvers.allocation.hull import concave_hull
from craftc.solvers.problem import BenefitCurves, ObjectiveName

RULE = (
    "the largest number of replicas per GPU whose last one still gains at least the mean gain per replica of the range "
    "that reaches 99% of the largest gain, on the concave hull of the curve"
)
"""The rule in words, for output."""
_ATTAINED = 0.99
_LEAST_GAIN = 0.005
"""Balancedness that replicas must gain, or part of the step time that they must save."""


@dataclass(frozen=True)
class BudgetPoint:
    """What one number of replicas per GPU costs and buys."""

    replicas_per_gpu: int
    """Counted in experts of the largest layer."""
    bytes_per_gpu: float
    """Budget / G."""
    reached: float
    """Balancedness that the best allocation of this budget is estimated to reach, mean over layers, in 0..1; for step
    time, the step time in units of perfect balance, at least 1."""
    marginal_gain: float
    """Balancedness gained, or step time saved, by the last replica per GPU; 0 for the first point."""


@dataclass(frozen=True)
class BudgetCurve:
    """Balancedness or step time by replicas per GPU, and the number that pays off."""

    points: tuple[BudgetPoint, ...]
    """For 0, 1, 2, ... replicas per GPU, up to as many as can be used."""
    chosen: int
    """Replicas per GPU chosen by the rule of this module."""
    exact: bool
    """True if every point is an optimal allocation, False if it is what greedy allocation reaches."""
    objective: ObjectiveName = "balancedness"
    """What the points reach."""


def budget_curve(
    curves: BenefitCurves,
    expert_bytes_L: Sequence[int],
    gpus: int,
    least_bytes: int = 0,
    objective: ObjectiveName = "balancedness",
    most_bytes: int | None = None,
) -> BudgetCurve:
    """The curve over replicas per GPU, and the number chosen among those that take at least `least_bytes`.

    most_bytes: the largest useful budget; by default the last count of the curves in every layer. objective: for step
    time, `curves` have the scores of `craftc.solvers.objectives.score`.

    One run of the dynamic program gives all points; if it would be too large, each is a greedy allocation. Raises
    Infeasible if even the most replicas in the curves take less than `least_bytes`, Unsupported for step time without
    scores.
    """
    bytes_of_one = gpus * max(expert_bytes_L)
    last_bytes = sum(curves.candidates_C[-1] * size for size in expert_bytes_L)
    most = -(-(last_bytes if most_bytes is None else min(last_bytes, most_bytes)) // bytes_of_one)
    if least_bytes > most * bytes_of_one:
        raise Infeasible(
            f"budget auto: at least {least_bytes} bytes are needed, the curves end at {most * bytes_of_one}; "
            f"give a budget in bytes"
        )
    budgets_R = [count * bytes_of_one for count in range(most + 1)]
    unit = math.gcd(*expert_bytes_L)
    try:
        best_U = best_benefits(curves, expert_bytes_L, budgets_R[-1])
        benefit_R = np.array([best_U[min(budget // unit, len(best_U) - 1)] for budget in budgets_R])
        exact = True
    except Unsupported:
        benefit_R = np.array([greedy_allocation(curves, expert_bytes_L, budget).objective for budget in budgets_R])
        exact = False
    benefit_R = np.maximum.accumulate(benefit_R)
    by_time = objective == "step-time"
    start_LC = curves.score_LC if by_time else curves.balancedness_LC
    if start_LC is None:
        raise Unsupported("budget auto: these curves do not say what replicas save of the step time")
    value_R = (benefit_R + start_LC[:, 0].sum()) / len(expert_bytes_L)
    reached_R = -value_R if by_time else value_R
    marginal_R = np.diff(value_R, prepend=value_R[0])
    points = tuple(
        BudgetPoint(count, budget / gpus, float(reached), float(gain))
        for count, (budget, reached, gain) in enumerate(zip(budgets_R, reached_R, marginal_R, strict=True))
    )
    chosen = knee(value_R, _LEAST_GAIN * (reached_R[0] if by_time else 1.0))
    return BudgetCurve(points, max(chosen, -(-least_bytes // bytes_of_one)), exact, objective)


def knee(value_R: np.ndarray, least_gain: float = _LEAST_GAIN) -> int:
    """The number of replicas per GPU chosen by the rule of this module.

    value_R: for 0, 1, 2, ... replicas per GPU, larger is better, never falling.
    """
    gain_R = value_R - value_R[0]
    if gain_R[-1] < least_gain:
        return 0
    end = int(np.argmax(gain_R >= _ATTAINED * gain_R[-1]))
    average = gain_R[end] / end
    corners = concave_hull(range(end + 1), gain_R[: end + 1].tolist())
    paying = [
        after
        for before, after in itertools.pairwise(corners)
        if gain_R[after] - gain_R[before] >= (after - before) * average * (1 - 1e-12)
    ]
    return paying[-1]
