"""How many copies each expert gets: greedily, each further copy to the largest load per copy (CRAFT, EPLB).

Axes: B a batch of problems (such as layers x candidate counts), E experts.
"""

from __future__ import annotations

import numpy as np

from craftc.errors import BadInput

_HALVINGS = 40


def greedy_copies(load_BE: np.ndarray, replicas_B: np.ndarray, max_copies: int) -> np.ndarray:
    """`copies_BE` int64: one copy of every expert, and each further one to the largest load / copies.

    load_BE: loads, not negative; replicas_B: copies beyond the first, 0..E * (max_copies - 1); max_copies: most
    copies of one expert (the number of GPUs). Ties go to the lower expert id; experts without load come last and share
    evenly.

    Copy c + 1 is worth load / c, so the greedy result is every (expert, c) above a threshold. The threshold is found by
    bisection, all problems at once, and only ties at it are handed out one by one: the cost does not grow with the
    number of replicas. Raises BadInput if replicas exceed E * (max_copies - 1).
    """
    experts = load_BE.shape[1]
    replicas_B = np.asarray(replicas_B, dtype=np.int64)
    if replicas_B.max(initial=0) > experts * (max_copies - 1):
        raise BadInput(
            f"{replicas_B.max()} replicas for {experts} experts: at most {experts * (max_copies - 1)} "
            f"fit if none of {max_copies} GPUs holds an expert twice"
        )
    weight_BE = _weights(load_BE)
    above_B1 = 2.0 * weight_BE.sum(axis=1, keepdims=True) / np.maximum(replicas_B, 1)[:, None]
    below_B1 = np.minimum(weight_BE.min(axis=1, keepdims=True) / max_copies, above_B1)
    for _ in range(_HALVINGS):
        middle_B1 = np.sqrt(above_B1 * below_B1)
        fits_B1 = (_copies_at(weight_BE, middle_B1, max_copies).sum(axis=1) - experts <= replicas_B)[:, None]
        above_B1 = np.where(fits_B1, middle_B1, above_B1)
        below_B1 = np.where(fits_B1, below_B1, middle_B1)
    copies_BE = _copies_at(weight_BE, above_B1, max_copies).astype(np.int64)
    _hand_out_rest(weight_BE, copies_BE, replicas_B, max_copies)
    return copies_BE


def _weights(load_BE: np.ndarray) -> np.ndarray:
    """Loads made positive: an idle expert weighs a billionth of the mean, so that leftover copies spread evenly."""
    mean_B1 = load_BE.mean(axis=1, keepdims=True, dtype=np.float64)
    return np.maximum(load_BE, 1e-9 * np.where(mean_B1 > 0, mean_B1, 1.0))


def _copies_at(weight_BE: np.ndarray, threshold_B1: np.ndarray, max_copies: int) -> np.ndarray:
    """Copies, as whole floats, if every copy worth at least the threshold is given."""
    return np.minimum(np.floor(weight_BE / threshold_B1) + 1, max_copies)


def _hand_out_rest(weight_BE: np.ndarray, copies_BE: np.ndarray, replicas_B: np.ndarray, max_copies: int) -> None:
    """Hand out the copies still missing, one per round to every row that lacks one; changes `copies_BE`."""
    experts = weight_BE.shape[1]
    missing_B = replicas_B + experts - copies_BE.sum(axis=1)
    while (rows := np.flatnonzero(missing_B > 0)).size:
        worth_RE = np.where(copies_BE[rows] < max_copies, weight_BE[rows] / copies_BE[rows], -1.0)
        copies_BE[rows, worth_RE.argmax(axis=1)] += 1
        missing_B[rows] -= 1
