"""A certified upper bound on the balancedness that any placement with a given number of replicas can reach.

In every step the fullest GPU carries at least the mean GPU load, and at least load / copies of every expert. All steps
share the same copies, so maximising the mean over steps of min(1, copies * mean / load) over fractional copies is a
linear program. Any non-negative multipliers of its constraints give a bound by weak duality; only that arithmetic is
trusted, not the solver. Copies that must share a GPU sharpen the bound: see `_least_peak`.

Axes: S steps, L layers, E experts, G GPUs, P (step, expert) pairs whose expert alone exceeds the mean GPU load,
T groups of steps, Q (group, expert) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from craftc.solvers.placement.copies import greedy_copies

_ROUNDING = 1e-12
"""Added to every bound to cover rounding in its own arithmetic."""
_LP_PAIRS = 2_000
"""Most pairs in a linear program; if there are more, groups of similar steps share their multipliers."""
_PARTS = (1, 2, 3, 4, 6)
"""Numbers of parts that a peak is divided into, see `_least_peak`."""
_MEETING_STEPS = 600
"""With more steps than this, copies that must share a GPU are ignored: the sharper bound is not worth the time."""


def balancedness_bounds(counts_SLE: np.ndarray, replicas_L: Sequence[int], gpus: int) -> np.ndarray:
    """`bound_L` in 0..1: no placement of layer l with `replicas_L[l]` replicas on `gpus` GPUs exceeds it.

    Holds for every placement whose slots per GPU differ by at most one and that puts no expert twice on a GPU, with
    even shares or any fixed ones. Balancedness is as in `replay`: mean over steps; a step without tokens counts as 1.
    """
    return np.array([_layer_bound(counts_SLE[:, layer], count, gpus) for layer, count in enumerate(replicas_L)])


def _layer_bound(counts_SE: np.ndarray, replicas: int, gpus: int) -> float:
    load_SE = counts_SE.astype(np.float64)
    mean_S = load_SE.sum(axis=1) / gpus
    peak_S = mean_S
    if len(load_SE) <= _MEETING_STEPS:
        peak_S = np.maximum(peak_S, _least_peak(load_SE, mean_S, replicas, gpus))
    if replicas == 0:
        peak_S = np.maximum(peak_S, _least_peak_without_replicas(load_SE, gpus))
    limit_S = np.divide(mean_S, peak_S, out=np.ones_like(mean_S), where=peak_S > 0)
    pairs = _Pairs.of(load_SE, mean_S, limit_S, replicas, gpus)
    if replicas == 0 or not pairs.reach_P.size:
        return min(1.0, float(limit_S.mean()) + _ROUNDING)
    return min(1.0, pairs.bound(_multipliers(pairs)) + _ROUNDING)


def _least_peak(load_SE: np.ndarray, mean_S: np.ndarray, replicas: int, gpus: int) -> np.ndarray:
    """`peak_S`: the least that the fullest GPU can carry, with the copies that suit each step best.

    Let the peak be T, divided into n parts. A copy of weight w takes 1 + (ceil(n * w / T) - 1) parts, and on one GPU
    the brackets sum to at most n - 1. So all copies take at most E + replicas + (n - 1) * G parts, and the copies of an
    expert together take at least ceil(n * load / T). Greedy copies give the smallest T for which both can hold.
    """
    peak_S = mean_S.copy()
    for parts in _PARTS:
        extra = replicas + (parts - 1) * gpus
        short = np.maximum(np.ceil(parts * load_SE / np.where(mean_S > 0, mean_S, 1.0)[:, None]) - 1, 0).sum(axis=1)
        steps = np.flatnonzero((short > extra) & (mean_S > 0))
        load_RE = load_SE[steps]
        copies_RE = greedy_copies(load_RE, np.full(len(steps), extra), extra + 1)
        peak_S[steps] = np.maximum(peak_S[steps], parts * (load_RE / copies_RE).max(axis=1, initial=0.0))
    return peak_S


def _least_peak_without_replicas(load_SE: np.ndarray, gpus: int) -> np.ndarray:
    """`peak_S`: the least that the fullest GPU can carry if every expert has one copy.

    The GPU of the heaviest expert holds at least floor(E / G) experts, and of the k * G + 1 heaviest experts some k + 1
    share a GPU.
    """
    experts = load_SE.shape[1]
    falling_SE = -np.sort(-load_SE, axis=1)
    others = experts // gpus - 1
    peak_S = falling_SE[:, 0] + (falling_SE[:, experts - others :].sum(axis=1) if others > 0 else 0.0)
    for full in range(1, (experts - 1) // gpus + 1):
        last = full * gpus
        peak_S = np.maximum(peak_S, falling_SE[:, last - full : last + 1].sum(axis=1))
    return peak_S


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The linear program: maximise the mean of t_S; t_s <= limit_s, t_s <= reach_p * copies_e, 1 <= copies_e <= G, and
    the copies have a given sum."""

    step_P: np.ndarray
    """Step of every pair."""
    expert_P: np.ndarray
    """Expert of every pair, numbered among the `experts` that occur in pairs."""
    reach_P: np.ndarray
    """Mean GPU load / load of the expert, below 1: what the step reaches with one copy of the expert."""
    limit_S: np.ndarray
    """What a step can reach with any copies, at most 1."""
    experts: int
    """Number of experts that occur in pairs."""
    replicas: int
    """Copies beyond the first, all spent on experts that occur in pairs."""
    gpus: int
    """Most copies that one expert can have."""

    @classmethod
    def of(cls, load_SE: np.ndarray, mean_S: np.ndarray, limit_S: np.ndarray, replicas: int, gpus: int) -> _Pairs:
        step_P, expert_P = np.nonzero(load_SE > mean_S[:, None])
        reach_P = mean_S[step_P] / load_SE[step_P, expert_P]
        kept, number_P = np.unique(expert_P, return_inverse=True)
        return cls(step_P, number_P, reach_P, limit_S, len(kept), replicas, gpus)

    @property
    def steps(self) -> int:
        """Number of steps, including those without pairs."""
        return len(self.limit_S)

    def bound(self, multiplier_P: np.ndarray) -> float:
        """The Lagrangian dual at any multipliers: an upper bound whatever they are.

        A step's multipliers are scaled to sum to at most 1; the rest up to 1 goes to t_s <= limit_s. Copies then go to
        the experts with the largest sums of multiplier * reach.
        """
        multiplier_P = np.maximum(multiplier_P, 0.0)
        sum_S = np.bincount(self.step_P, multiplier_P, minlength=self.steps)
        multiplier_P = multiplier_P / np.maximum(sum_S, 1.0)[self.step_P]
        price_E = np.bincount(self.expert_P, multiplier_P * self.reach_P, minlength=self.experts)
        worth = price_E.sum()
        left = self.replicas
        for price in -np.sort(-price_E):
            given = min(left, self.gpus - 1)
            worth += price * given
            left -= given
        slack = (np.maximum(0.0, 1.0 - sum_S) * self.limit_S).sum()
        return float((slack + worth) / self.steps)


def _multipliers(pairs: _Pairs) -> np.ndarray:
    """`multiplier_P`: the optimal multipliers, or the best ones that are equal within groups of similar steps."""
    group_S = _group_steps(pairs)
    key_P = group_S[pairs.step_P] * pairs.experts + pairs.expert_P
    key_Q, pair_P = np.unique(key_P, return_inverse=True)
    group_Q, expert_Q = np.divmod(key_Q, pairs.experts)
    size_T = np.bincount(group_S)
    # As far as this expert is concerned, steps of the group that lack this pair reach 1.
    slope_Q = np.bincount(pair_P, pairs.reach_P) / size_T[group_Q]
    start_Q = 1.0 - np.bincount(pair_P) / size_T[group_Q]
    limit_T = np.bincount(group_S, pairs.limit_S) / size_T
    multiplier_Q = _solve(pairs, group_Q, expert_Q, slope_Q, start_Q, size_T, limit_T)
    return (multiplier_Q / size_T[group_Q])[pair_P]


def _group_steps(pairs: _Pairs) -> np.ndarray:
    """`group_S`: one group per step if the program stays small, else groups of steps limited by the same experts.

    What limits a step is judged with copies in proportion to what each expert lacks.
    """
    groups = max(1, _LP_PAIRS // pairs.experts)
    if len(pairs.reach_P) <= _LP_PAIRS or pairs.steps <= groups:
        return np.arange(pairs.steps)
    want_E = np.bincount(pairs.expert_P, 1.0 / pairs.reach_P - 1.0, minlength=pairs.experts)
    copies_E = np.minimum(1.0 + pairs.replicas * want_E / want_E.sum(), pairs.gpus)
    value_SE = np.ones((pairs.steps, pairs.experts))
    value_SE[pairs.step_P, pairs.expert_P] = np.minimum(1.0, pairs.reach_P * copies_E[pairs.expert_P])
    tightest_SE = np.argsort(value_SE, axis=1, kind="stable")
    second_S = tightest_SE[:, min(1, pairs.experts - 1)]
    order_S = np.lexsort([value_SE.min(axis=1), second_S, tightest_SE[:, 0]])
    group_S = np.empty(pairs.steps, dtype=np.int64)
    group_S[order_S] = np.arange(pairs.steps) * groups // pairs.steps
    return group_S


def _solve(
    pairs: _Pairs,
    group_Q: np.ndarray,
    expert_Q: np.ndarray,
    slope_Q: np.ndarray,
    start_Q: np.ndarray,
    size_T: np.ndarray,
    limit_T: np.ndarray,
) -> np.ndarray:
    """`multiplier_Q` of the program with t_g <= start + slope * copies per pair; zeros if the solver fails."""
    count, groups = len(slope_Q), len(size_T)
    row_Q = np.arange(count)
    row = np.concatenate([row_Q, row_Q, np.full(pairs.experts, count)])
    column = np.concatenate([group_Q, groups + expert_Q, groups + np.arange(pairs.experts)])
    value = np.concatenate([np.ones(count), -slope_Q, np.ones(pairs.experts)])
    solved = linprog(
        np.concatenate([-size_T.astype(np.float64), np.zeros(pairs.experts)]),
        A_ub=csr_array((value, (row, column)), shape=(count + 1, groups + pairs.experts)),
        b_ub=np.concatenate([start_Q, [pairs.experts + pairs.replicas]]),
        bounds=[(0.0, limit) for limit in limit_T.tolist()] + [(1.0, float(pairs.gpus))] * pairs.experts,
        method="highs",
    )
    return -solved.ineqlin.marginals[:count] if solved.status == 0 else np.zeros(count)
