"""A certified upper bound on the balancedness that any placement with a given number of replicas can reach.

In every step the fullest GPU carries at least the mean GPU load, and at least load / copies of every expert; copies
that must share a GPU sharpen this (`least_peak`). What a step can reach is cut into bands, and with the copies of all
steps alike and whole, a step gets a band only if every expert has the copies for it. Shares of a band among these
experts (non-negative, at most 1 in sum) turn that into what each copy of each expert is worth, and the best spending of
the replicas on the concave hulls of these worths is an upper bound whatever the shares: only that arithmetic is
trusted. The shares are sought by scaling, so that every copy is worth about the same.

How far above what is reached, with lognormal loads (`problem_of` of benchmarks/planner): about .015 with 384 experts,
67 replicas and 1024 GPUs; .06 with 256 experts, 8 replicas and 64 GPUs; and .18 with 384 experts, 640 replicas and 1024
GPUs in 3000 steps (.05 in 12), where shares scaled on some steps suit the others less. Which part of that is the
bound's and which the planner's is not known.

Axes: S steps, L layers, E experts, G GPUs, B (layer, step) rows, X experts of all layers in one numbering, N numbers of
copies, K bands, Q entries (row, band, expert that one copy does not get through the band).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from craftc.solvers.least_peak import EXACT, least_peak, least_peak_without_replicas

_ROUNDING = 1e-12
"""Added to every bound to cover rounding in its own arithmetic."""
_MEETING_STEPS = 600
"""With more steps than this, copies that must share a GPU are ignored: the sharper bound is not worth the time."""
_BANDS = 24
_ROUNDS = 24
"""Rounds of scaling the shares."""
_WASTE = 10.0
"""What sharing a band with first copies counts as, in typical slopes."""
_MOST_WEIGHT = 1e25
"""Weights stay between this and one over it; a narrow range loses their ratios after some rounds."""
_UNSEEN = 1e6
"""Weight of copies that no step needs among those that shares are scaled on: few steps do, so shares can be large."""
_SCALING_STEPS = 128
"""With more steps than this, shares are scaled on that many of them, and then used for all."""
_ROWS_CELLS = 400_000
"""About as many loads are worked on at once."""
_ENTRIES = 100_000
"""About as many entries are worked on at once."""


def balancedness_bounds(
    counts_SLE: np.ndarray, replicas_L: Sequence[int], gpus: int, layer_experts: tuple[int, ...] | None = None
) -> np.ndarray:
    """`bound_L` in 0..1: no placement of layer l with `replicas_L[l]` replicas on `gpus` GPUs exceeds it.

    layer_experts: experts of every layer, if layers differ.

    Holds for every placement whose slots per GPU differ by at most one and that puts no expert twice on a GPU, with
    even shares or any fixed ones. Balancedness is as in `replay`: mean over steps; a step without tokens counts as 1.
    """
    steps, layers, experts = counts_SLE.shape
    bound_L = np.ones(layers)
    if layer_experts is not None:
        experts_L = np.array(layer_experts)
        for each in set(layer_experts):
            alike = np.flatnonzero(experts_L == each)
            replicas_A = np.asarray(replicas_L)[alike].tolist()
            bound_L[alike] = balancedness_bounds(counts_SLE[:, alike][:, :, :each], replicas_A, gpus)
        return bound_L
    at_once = max(1, _ROWS_CELLS // max(1, steps * experts))
    for first in range(0, layers, at_once):
        chunk = slice(first, min(first + at_once, layers))
        load_BE = counts_SLE[:, chunk].swapaxes(0, 1).reshape(-1, experts).astype(np.float64)
        bound_L[chunk] = _bounds_at_once(load_BE, np.asarray(replicas_L[chunk], dtype=np.int64), steps, gpus)
    return bound_L


def _bounds_at_once(load_BE: np.ndarray, replicas_L: np.ndarray, steps: int, gpus: int) -> np.ndarray:
    """`bound_L` of layers whose rows follow each other, `steps` each."""
    mean_B = load_BE.sum(axis=1) / gpus
    replicas_B = np.repeat(replicas_L, steps)
    peak_B = least_peak(load_BE, mean_B, replicas_B, gpus, meeting=steps <= _MEETING_STEPS)
    single_B = np.flatnonzero(replicas_B == 0)
    peak_B[single_B] = np.maximum(peak_B[single_B], least_peak_without_replicas(load_BE[single_B], gpus))
    limit_B = np.divide(mean_B, peak_B, out=np.ones_like(mean_B), where=peak_B > 0)
    bound_L = limit_B.reshape(-1, steps).mean(axis=1)
    shared_L = np.flatnonzero(replicas_L > 0)
    if steps > 1 and shared_L.size:
        row_B = (shared_L[:, None] * steps + np.arange(steps)).ravel()
        rows = _Rows.of(load_BE[row_B], mean_B[row_B], limit_B[row_B], steps)
        bound_L[shared_L] = np.minimum(bound_L[shared_L], _shared_bound(rows, replicas_L[shared_L]))
    return np.minimum(1.0, bound_L + _ROUNDING)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of layers, `steps` each, and the (row, expert) pairs in which one copy does not reach the row's limit."""

    row_P: np.ndarray
    """Row of every pair, ascending."""
    expert_P: np.ndarray
    """Expert of every pair, numbered over all layers and only if it occurs in a pair."""
    reach_P: np.ndarray
    """Mean GPU load / load of the expert: what the row reaches with one copy of the expert."""
    base_B: np.ndarray
    """What the row reaches with one copy of every expert, or its limit if it has no pairs."""
    limit_B: np.ndarray
    """What the row can reach with any copies, at most 1."""
    layer_X: np.ndarray
    """Layer of every expert."""
    steps: int

    @classmethod
    def of(cls, load_BE: np.ndarray, mean_B: np.ndarray, limit_B: np.ndarray, steps: int) -> _Rows:
        row_P, one_P = np.nonzero(load_BE * (limit_B * EXACT)[:, None] > mean_B[:, None])
        experts = load_BE.shape[1]
        expert_P = row_P // steps * experts + one_P
        layers = len(load_BE) // steps
        used = np.zeros(layers * experts, dtype=bool)
        used[expert_P] = True
        number = np.cumsum(used) - 1
        heaviest_B = load_BE.max(axis=1)
        base_B = np.divide(mean_B, heaviest_B, out=np.ones_like(mean_B), where=heaviest_B > 0)
        limited_B = np.bincount(row_P, minlength=len(load_BE)) > 0
        return cls(
            row_P,
            number[expert_P],
            mean_B[row_P] / load_BE[row_P, one_P],
            np.where(limited_B, np.minimum(base_B, limit_B), limit_B),
            limit_B,
            np.flatnonzero(used) // experts,
            steps,
        )

    @cached_property
    def copies(self) -> int:
        """N: more copies than any expert needs for a limit."""
        return int((self.limit_B[self.row_P] / self.reach_P).max(initial=0.0)) + 3

    def entries(self, first: int, last: int, every: int = 1) -> _Entries:
        """Those of the pairs first..last, which hold whole rows; with `every`, only of one step in so many."""
        pairs = slice(first, last)
        row_P, reach_P, expert_P = self.row_P[pairs], self.reach_P[pairs], self.expert_P[pairs]
        if every > 1:
            kept_P = np.flatnonzero(row_P % self.steps % every == 0)
            row_P, reach_P, expert_P = row_P[kept_P], reach_P[kept_P], expert_P[kept_P]
        base_P = self.base_B[row_P]
        width_P = (self.limit_B[row_P] - base_P) / _BANDS
        # The first band that one copy does not get through; entries then run over the bands from there.
        first_P = np.clip((reach_P - base_P) / np.maximum(width_P, 1e-300), 0, _BANDS - 1).astype(np.int64)
        count_P = _BANDS - first_P
        pair_Q = np.repeat(np.arange(len(row_P)), count_P)
        band_Q = np.arange(len(pair_Q)) - np.repeat(np.cumsum(count_P) - _BANDS, count_P)
        reach_Q, width_Q = reach_P[pair_Q], width_P[pair_Q]
        low_Q = base_P[pair_Q] + band_Q * width_Q
        few_Q = (low_Q / reach_Q).astype(np.int64)
        value_Q = np.clip((few_Q + 1) * reach_Q - low_Q, 0.0, width_Q)
        row_Q = row_P[pair_Q] - (row_P[0] if len(row_P) else 0)
        key_Q = expert_P[pair_Q] * self.copies + few_Q
        return _Entries(row_Q * _BANDS + band_Q, key_Q, value_Q, width_Q - value_Q)


@dataclass(frozen=True, eq=False)
class _Entries:
    """What the copies of experts are worth to bands of rows, if the whole band depends on that expert."""

    cell_Q: np.ndarray
    """(row, band)."""
    key_Q: np.ndarray
    """Expert * N + the most copies with which the expert gets the row nowhere in the band."""
    value_Q: np.ndarray
    """What one copy more adds."""
    rest_Q: np.ndarray
    """What is missing from the whole band then, as if the next copy always added that."""

    def worth(self, weight_XN: np.ndarray) -> np.ndarray:
        """`worth_XN`: what each further copy adds, if bands are shared among their experts in proportion to weights."""
        weight_Q = weight_XN.ravel()[self.key_Q]
        weight_Q /= np.bincount(self.cell_Q, weight_Q)[self.cell_Q]
        keys = weight_XN.size
        worth = np.bincount(self.key_Q, weight_Q * self.value_Q, minlength=keys)
        worth[1:] += np.bincount(self.key_Q, weight_Q * self.rest_Q, minlength=keys)[:-1]
        return worth.reshape(weight_XN.shape)


def _shared_bound(rows: _Rows, replicas_L: np.ndarray) -> np.ndarray:
    """`bound_L` with the copies of every layer shared by all of its steps."""
    layers = len(replicas_L)
    cells = rows.steps * layers
    if not rows.row_P.size:
        return rows.limit_B.reshape(layers, -1).mean(axis=1)
    weight_XN = _scaled_weights(rows, layers)
    worth_XN = np.zeros_like(weight_XN)
    pairs = len(rows.row_P)
    blocks = max(1, pairs * _BANDS // _ENTRIES)
    border = np.searchsorted(rows.row_P, np.linspace(0, cells, blocks + 1).astype(np.int64))
    for first, last in zip(border[:-1].tolist(), border[1:].tolist(), strict=True):
        worth_XN += rows.entries(first, last).worth(weight_XN)
    # Rows without pairs reach their limit, which is their base; the first copy of every expert is free.
    sum_L = rows.base_B.reshape(layers, -1).sum(axis=1)
    sum_L += np.bincount(rows.layer_X, worth_XN[:, 0], minlength=layers)
    slope_XN = _hull_slopes(worth_XN[:, 1:])
    for layer, replicas in enumerate(replicas_L.tolist()):
        slopes = -np.sort(-slope_XN[rows.layer_X == layer].ravel())
        sum_L[layer] += slopes[:replicas].sum()
    return np.asarray(sum_L / rows.steps)


def _scaled_weights(rows: _Rows, layers: int) -> np.ndarray:
    """`weight_XN` with which the copies of a layer's experts are worth about the same, as far as that can be."""
    entries = rows.entries(0, len(rows.row_P), every=-(-rows.steps // _SCALING_STEPS))
    shape = (len(rows.layer_X), rows.copies)
    used_XN = np.bincount(entries.key_Q, minlength=shape[0] * shape[1]).reshape(shape) > 0
    weight_XN = np.ones(shape)
    for _ in range(_ROUNDS):
        worth_XN = entries.worth(weight_XN)
        slope_XN = np.empty(shape)
        slope_XN[:, 1:] = _hull_slopes(worth_XN[:, 1:])
        # The typical slope, weighted by worth: of the copies that the bands pay for.
        whole_XN, falling_XN = worth_XN[:, 1:], np.maximum(slope_XN[:, 1:], 1e-300)
        log_L = np.bincount(rows.layer_X, (whole_XN * np.log(falling_XN)).sum(axis=1), minlength=layers)
        worth_L = np.bincount(rows.layer_X, whole_XN.sum(axis=1), minlength=layers)
        typical_L = np.exp(log_L / np.maximum(worth_L, 1e-300))
        # What first copies add is free, so shares are wasted on them.
        slope_XN[:, 0] = _WASTE * typical_L[rows.layer_X]
        weight_XN /= np.clip(slope_XN / typical_L[rows.layer_X, None], 0.1, 10.0)
        weight_XN = np.where(used_XN, np.clip(weight_XN, 1.0 / _MOST_WEIGHT, _MOST_WEIGHT), _UNSEEN)
    return weight_XN


def _hull_slopes(worth_XN: np.ndarray) -> np.ndarray:
    """`slope_XN`: steps of the concave hull of the sums of `worth_XN` along a row; they fall along a row.

    A step larger than the one before is averaged with it, and so on until there is none.
    """
    experts, copies = worth_XN.shape
    sum_H = worth_XN.ravel()
    expert_H = np.repeat(np.arange(experts), copies)
    count_H = np.ones(len(sum_H), dtype=np.int64)
    while True:
        mean_H = sum_H / count_H
        start_H = np.ones(len(sum_H), dtype=bool)
        start_H[1:] = (expert_H[1:] != expert_H[:-1]) | (mean_H[:-1] * (1 + 1e-12) >= mean_H[1:])
        if start_H.all():
            return np.repeat(mean_H, count_H).reshape(experts, copies)
        first_H = np.flatnonzero(start_H)
        sum_H, count_H = np.add.reduceat(sum_H, first_H), np.add.reduceat(count_H, first_H)
        expert_H = expert_H[first_H]
