"""Unequal shares: how much of an expert's tokens each of its copies takes, by linear programming.

With the placement fixed, GPU loads are linear in the shares, so minimising the sum over steps of the maximum GPU load
is a linear program: in units of the step's mean for balancedness, in tokens for step time. Shares fitted to some steps
may do worse on others: a layer gets them only if steps left out of the program gain too, and goes only as far towards
them as is best for those steps.

Axes: S steps, E experts, G GPUs, V copies of experts that have several copies, W rows of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from craftc.solvers.cross_validation import deal_steps
from craftc.solvers.problem import ObjectiveName, Placement, Shares
from craftc.solvers.replay import given_shares, gpu_loads, step_balancedness

_MOST_STEPS = 256
"""Most steps in a program; if there are more, that many, evenly spaced."""
_MOST_ROUNDS = 12
"""Most rounds of adding the GPUs that turned out to be stragglers."""
_FOLDS = 4
"""Parts of the steps, each left out once."""
_WEIGHTS = (1.0, 0.5)
"""How far to go from even shares to the program's, tried on steps left out."""
_LEAST_GAIN = 5e-4
"""Balancedness, or step time, that unequal shares must gain on steps left out."""
_DIGITS = 6


@dataclass(frozen=True)
class Aim:
    """What shares are chosen for."""

    objective: ObjectiveName = "balancedness"
    """Which mean over steps counts."""
    least_tokens: float = 0.0
    """For step time: no step is shorter than these tokens, the slots of the GPU with the most of them."""

    def units(self, counts_SE: np.ndarray, gpus: int) -> np.ndarray:
        """`unit_S`, above 0: GPU loads are measured in the mean GPU load, of the step or, for step time, of all."""
        mean_S = counts_SE.sum(axis=1, dtype=np.float64) / gpus
        if self.objective == "step-time":
            mean_S = np.full(len(mean_S), mean_S.mean())
        return np.where(mean_S > 0, mean_S, 1.0)

    def values(self, counts_SE: np.ndarray, placement: Placement, shares: Shares | None) -> np.ndarray:
        """`value_S`, larger is better: balancedness, or the negated time of the slowest GPU in tokens."""
        gpu_load_SG = gpu_loads(counts_SE, placement, shares)
        if self.objective == "balancedness":
            return step_balancedness(gpu_load_SG)
        peak_S = gpu_load_SG.max(axis=1)
        return -np.where(peak_S > 0, np.maximum(peak_S, self.least_tokens), 0.0)

    def scale(self, counts_SE: np.ndarray, gpus: int) -> float:
        """What a mean of `values` is divided by to be balancedness, or the negated step time."""
        return 1.0 if self.objective == "balancedness" else max(counts_SE.sum() / gpus / len(counts_SE), 1e-9)


BALANCEDNESS = Aim()
"""All steps count the same."""


@dataclass(frozen=True)
class SharesChoice:
    """Whether unequal shares are worth having for a layer."""

    shares: Shares | None
    """Share of every slot, or None if even shares are better."""
    even: float
    """Value of even shares: balancedness, mean over steps, in 0..1, or the layer's negated step time."""
    unequal: float
    """Value on steps left out of the program, each left out once; that of even shares if they won."""


def choose_shares(counts_SE: np.ndarray, placement: Placement, aim: Aim = BALANCEDNESS) -> SharesChoice:
    """Unequal shares for a layer if they gain on steps left out, even ones otherwise.

    Shares also stay even for a single step, which cannot be left out, and if no expert has several copies.
    """
    scale = aim.scale(counts_SE, len(placement))
    even = float(aim.values(counts_SE, placement, None).mean()) / scale
    steps = len(counts_SE)
    if steps < 2 or not _free_copies(placement):
        return SharesChoice(None, even, even)
    fold_S = deal_steps(steps, _FOLDS)
    reached_WS = np.empty((len(_WEIGHTS), steps))
    for fold in range(int(fold_S.max()) + 1):
        fitted = best_shares(counts_SE[fold_S != fold], placement, aim)
        for row, weight in enumerate(_WEIGHTS):
            left_out = fold_S == fold
            reached_WS[row, left_out] = aim.values(counts_SE[left_out], placement, mixed(fitted, placement, weight))
    best = int(reached_WS.mean(axis=1).argmax())
    held_out = float(reached_WS[best].mean()) / scale
    shares = mixed(best_shares(counts_SE, placement, aim), placement, _WEIGHTS[best])
    in_sample = float(aim.values(counts_SE, placement, shares).mean()) / scale
    if held_out < even + _LEAST_GAIN or in_sample < even + _LEAST_GAIN:
        return SharesChoice(None, even, even)
    return SharesChoice(shares, even, held_out)


def best_shares(counts_SE: np.ndarray, placement: Placement, aim: Aim = BALANCEDNESS) -> Shares:
    """The shares that minimise the sum over steps of the maximum GPU load: in units of the step's mean GPU load or, for
    step time, in tokens and at least `least_tokens`.

    Each program includes only the GPUs that were stragglers so far; it grows until no other GPU exceeds them. If there
    are more than 256 steps, the program uses 256 of them, evenly spaced.
    """
    kept = np.unique(np.linspace(0, len(counts_SE) - 1, min(len(counts_SE), _MOST_STEPS)).round().astype(int))
    counts_SE = counts_SE[kept][counts_SE[kept].sum(axis=1) > 0]
    free = _free_copies(placement)
    if not free or not len(counts_SE):
        return _even(placement)
    unit_S = aim.units(counts_SE, len(placement))
    program = _Program(counts_SE / unit_S[:, None], aim.least_tokens / unit_S, placement, free)
    share_V = program.even_V
    known = np.zeros((len(counts_SE), len(placement)), dtype=bool)
    for _ in range(_MOST_ROUNDS):
        gpu_load_SG = program.gpu_loads(share_V)
        limit_S1 = np.where(known, gpu_load_SG, -np.inf).max(axis=1, keepdims=True)
        stragglers = gpu_load_SG > np.maximum(limit_S1, gpu_load_SG.max(axis=1, keepdims=True) - 0.02) + 1e-9
        if not (stragglers & ~known).any():
            break
        known |= stragglers
        solved = program.solve(known)
        if solved is None:
            break
        share_V = solved
    return _rounded(program.shares(share_V), placement)


def mixed(shares: Shares, placement: Placement, weight: float) -> Shares:
    """A mix of `weight` of `shares` and 1 - `weight` of even shares."""
    even = _even(placement)
    between = [
        [weight * share + (1 - weight) * even_share for share, even_share in zip(own, own_even, strict=True)]
        for own, own_even in zip(shares, even, strict=True)
    ]
    return _rounded(between, placement)


@dataclass(frozen=True, eq=False)
class _Program:
    """The linear program of one layer: variables are the shares of copies, then one limit per step."""

    load_SE: np.ndarray
    least_S: np.ndarray
    """Smallest limit of every step."""
    placement: Placement
    free: list[tuple[int, int, int]]
    """(expert, GPU, slot) of every copy of an expert that has several copies."""

    @property
    def even_V(self) -> np.ndarray:
        expert_V = np.array([expert for expert, _, _ in self.free])
        return 1.0 / np.bincount(expert_V)[expert_V]

    def gpu_loads(self, share_V: np.ndarray) -> np.ndarray:
        share_EG = given_shares(self.placement, self.shares(share_V), self.load_SE.shape[1])
        return self.load_SE @ share_EG

    def shares(self, share_V: np.ndarray) -> Shares:
        """Shares of all slots."""
        shares = [[1.0] * len(held) for held in self.placement]
        for (_, gpu, slot), share in zip(self.free, share_V.tolist(), strict=True):
            shares[gpu][slot] = share
        return tuple(map(tuple, shares))

    def solve(self, known_SG: np.ndarray) -> np.ndarray | None:
        """`share_V`, optimal if only the known GPUs of every step count; None if the solver fails."""
        from scipy.optimize import linprog  # late: it takes as long as planning

        steps, count = len(self.load_SE), len(self.free)
        expert_V = np.array([expert for expert, _, _ in self.free])
        gpu_V = np.array([gpu for _, gpu, _ in self.free])
        step_W, gpu_W = np.nonzero(known_SG)
        fixed_SG = self.gpu_loads(np.zeros(count))
        # fixed load + sum of share * load - limit of the step <= 0
        row, copy = np.nonzero(gpu_W[:, None] == gpu_V[None, :])
        rows = np.concatenate([row, np.arange(len(step_W))])
        columns = np.concatenate([copy, count + step_W])
        values = np.concatenate([self.load_SE[step_W[row], expert_V[copy]], -np.ones(len(step_W))])
        _, number_V = np.unique(expert_V, return_inverse=True)
        solved = linprog(
            np.concatenate([np.zeros(count), np.ones(steps)]),
            A_ub=csr_array((values, (rows, columns)), shape=(len(step_W), count + steps)),
            b_ub=-fixed_SG[step_W, gpu_W],
            A_eq=csr_array((np.ones(count), (number_V, np.arange(count))), shape=(number_V.max() + 1, count + steps)),
            b_eq=np.ones(number_V.max() + 1),
            bounds=[(0, 1)] * count + [(least, None) for least in self.least_S.tolist()],
            method="highs",
        )
        return None if solved.x is None else np.clip(solved.x[:count], 0.0, 1.0)


def _free_copies(placement: Placement) -> list[tuple[int, int, int]]:
    held = [expert for gpu in placement for expert in gpu]
    several = np.bincount(held) > 1
    return [
        (expert, gpu, slot)
        for gpu, experts in enumerate(placement)
        for slot, expert in enumerate(experts)
        if several[expert]
    ]


def _even(placement: Placement) -> Shares:
    copies = np.bincount([expert for gpu in placement for expert in gpu])
    return tuple(tuple(1.0 / int(copies[expert]) for expert in gpu) for gpu in placement)


def _rounded(shares: Sequence[Sequence[float]], placement: Placement) -> Shares:
    """Shares as short decimals that sum to 1 for every expert: its largest share absorbs the rounding."""
    rounded = [[round(share, _DIGITS) for share in own] for own in shares]
    slots: dict[int, list[tuple[int, int]]] = {}
    for gpu, held in enumerate(placement):
        for slot, expert in enumerate(held):
            slots.setdefault(expert, []).append((gpu, slot))
    for places in slots.values():
        gpu, slot = max(places, key=lambda place: rounded[place[0]][place[1]])
        rest = sum(rounded[g][s] for g, s in places if (g, s) != (gpu, slot))
        rounded[gpu][slot] = round(1.0 - rest, _DIGITS)
    return tuple(map(tuple, rounded))
