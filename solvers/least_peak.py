"""The least that the fullest GPU of a step can carry, with the copies that suit that step best.

Axes: B rows (steps of layers), E experts, G GPUs, S steps, R some of the rows.
"""

from __future__ import annotations

import numpy as np

EXACT = 1.0 - 1e-12
"""Factor on quotients before they are rounded up, so that rounding never asks for one copy more."""
_PARTS = (2, 3, 4, 6)
"""Numbers of parts that a peak is divided into besides 1, see `craftc.solvers.least_peak`."""
_HALVINGS = 12
_LAST_COPIES = 64
"""Most copies that are handed out one by one to find the peak of a step exactly."""


def least_peak(
    load_BE: np.ndarray, mean_B: np.ndarray, replicas_B: np.ndarray, gpus: int, *, meeting: bool
) -> np.ndarray:
    """`peak_B`: the least that the fullest GPU can carry, with the copies that suit each row best.

    Let the peak be T, divided into n parts. A copy of weight w takes 1 + (ceil(n * w / T) - 1) parts, and on one GPU
    the brackets sum to at most n - 1. So all copies take at most E + replicas + (n - 1) * G parts, and the copies of an
    expert together take at least ceil(n * load / T). The smallest T for which both can hold is found for n = 1, and, if
    `meeting`, for more parts.
    """
    peak_B = np.maximum(mean_B, _least_largest(load_BE, mean_B, replicas_B))
    for parts in _PARTS if meeting else ():
        extra_B = replicas_B + (parts - 1) * gpus
        # Parts beyond the first of every expert.
        scale_B = parts * EXACT / np.where(peak_B > 0, peak_B, 1.0)
        short_B = np.ceil(load_BE * scale_B[:, None]).sum(axis=1) - np.count_nonzero(load_BE, axis=1)
        rows = np.flatnonzero(short_B > extra_B)
        if rows.size:
            least_R = parts * _least_largest(load_BE[rows], peak_B[rows] / parts, extra_B[rows])
            peak_B[rows] = np.maximum(peak_B[rows], least_R)
    return peak_B


def _least_largest(load_BE: np.ndarray, least_B: np.ndarray, extra_B: np.ndarray) -> np.ndarray:
    """`largest_B`: the least that the largest load / copies can be with `extra_B` copies beyond the first, or a little
    less; `least_B` where that is more.

    The largest exceeds all but the `extra` heaviest loads, so only these are looked at.
    """
    experts = load_BE.shape[1]
    kept = min(experts, int(extra_B.max(initial=0)) + 1)
    if kept < experts:
        load_BE = np.partition(load_BE, experts - kept, axis=1)[:, experts - kept :]
    above_B = np.maximum(load_BE.max(axis=1, initial=0.0), least_B)
    above_B = np.where(above_B > 0, above_B, 1.0)
    sum_B = load_BE.sum(axis=1)
    below_B = np.minimum(np.maximum(least_B, sum_B / (kept + extra_B)), above_B)
    below_B = np.where(below_B > 0, below_B, above_B)
    for _ in range(_HALVINGS):
        middle_B = np.sqrt(above_B * below_B)
        fits_B = _copies_below(load_BE, middle_B).sum(axis=1) - kept <= extra_B
        above_B = np.where(fits_B, middle_B, above_B)
        below_B = np.where(fits_B, below_B, middle_B)
    # The copies left at `above` go to the largest load / copies one by one; what is then the largest is the least.
    largest_B = below_B.copy()
    rows, load_RE = np.arange(len(load_BE)), load_BE
    copies_RE = _copies_below(load_RE, above_B)
    left_R = extra_B - (copies_RE.sum(axis=1) - kept)
    for _ in range(_LAST_COPIES):
        each_RE = load_RE / copies_RE
        most_R = each_RE.argmax(axis=1)
        each_R = each_RE[np.arange(len(rows)), most_R]
        done_R = (left_R <= 0) | (each_R <= below_B[rows])
        largest_B[rows[done_R]] = np.maximum(each_R, below_B[rows])[done_R]
        copies_RE[np.arange(len(rows)), most_R] += 1
        going_R = np.flatnonzero(~done_R)
        if not going_R.size:
            break
        rows, load_RE, copies_RE, left_R = rows[going_R], load_RE[going_R], copies_RE[going_R], left_R[going_R] - 1
    return np.where(sum_B > 0, np.maximum(largest_B, least_B), least_B)


def _copies_below(load_BE: np.ndarray, largest_B: np.ndarray) -> np.ndarray:
    """Copies, as whole floats, with which no load / copies exceeds `largest_B`."""
    return np.maximum(np.ceil(load_BE * (EXACT / largest_B)[:, None]), 1.0)


def least_peak_without_replicas(load_SE: np.ndarray, gpus: int) -> np.ndarray:
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
