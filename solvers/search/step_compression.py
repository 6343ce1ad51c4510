"""A few weighted steps that stand for thousands: k-means of the steps' expert loads, each layer on its own.

Axes: S steps, L layers, E experts, K representative steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ROUNDS = 6
_PEAKINESS = 4
"""Exponent of the power mean by which copies are first handed out."""


@dataclass(frozen=True, eq=False)
class RepresentativeSteps:
    """The steps that a search uses, with loads in units of the mean GPU load of their step."""

    load_LKE: np.ndarray
    """Loads of every expert, float32."""
    weight_LK: np.ndarray
    """Share of all steps that each stands for, summing to 1 per layer."""
    risk_LE: np.ndarray
    """Variance of an expert's load within the steps that share a representative, float32."""
    floor_LK: np.ndarray
    """Time that a GPU takes for each of its slots, however few the tokens, in the same units."""

    @cached_property
    def peak_LE(self) -> np.ndarray:
        """Power mean of every expert's loads over steps: a copy is worth most where a load peaks."""
        weighted_LKE = self.load_LKE.astype(np.float64) ** _PEAKINESS * self.weight_LK[:, :, None]
        return weighted_LKE.sum(axis=1) ** (1 / _PEAKINESS)


def compress_steps(
    counts_SLE: np.ndarray,
    gpus: int,
    most: int,
    weight_SL: np.ndarray | None = None,
    floor_SL: np.ndarray | None = None,
) -> RepresentativeSteps:
    """At most `most` steps per layer that stand for all of `counts_SLE`, weighted evenly or by `weight_SL`.

    floor_SL: time of a slot in units of the mean GPU load, None for none.

    The difference between a step and its representative counts as risk.
    """
    steps, layers, experts = counts_SLE.shape
    kept = min(most, steps)
    load_LKE = np.zeros((layers, kept, experts), dtype=np.float32)
    weight_LK = np.zeros((layers, kept))
    risk_LE = np.zeros((layers, experts), dtype=np.float32)
    floor_LK = np.zeros((layers, kept))
    for layer in range(layers):
        load_SE = _in_gpu_loads(counts_SLE[:, layer], gpus)
        nearest_S = np.arange(steps) if kept == steps else _nearest(load_SE, kept)
        size_K = np.bincount(nearest_S, minlength=kept)
        load_KE = _means(load_SE, nearest_S, size_K)
        part_S = np.ones(steps) if weight_SL is None else weight_SL[:, layer]
        part_S = part_S / max(part_S.sum(), 1e-300)
        load_LKE[layer], weight_LK[layer] = load_KE, np.bincount(nearest_S, weights=part_S, minlength=kept)
        risk_LE[layer] = np.square(load_SE - load_KE[nearest_S]).mean(axis=0)
        if floor_SL is not None:
            floor_LK[layer] = np.bincount(nearest_S, floor_SL[:, layer], minlength=kept) / np.maximum(size_K, 1)
    return RepresentativeSteps(load_LKE, weight_LK, risk_LE, floor_LK)


def _in_gpu_loads(counts_SE: np.ndarray, gpus: int) -> np.ndarray:
    total_S1 = counts_SE.sum(axis=1, keepdims=True, dtype=np.float64)
    return (counts_SE * (gpus / np.maximum(total_S1, 1))).astype(np.float32)


def _nearest(load_SE: np.ndarray, many: int) -> np.ndarray:
    """`nearest_S`: k-means, starting from evenly spaced steps; a group may become empty."""
    centre_KE = load_SE[np.linspace(0, len(load_SE) - 1, many).round().astype(int)]
    nearest_S = np.zeros(len(load_SE), dtype=np.int64)
    for _ in range(_ROUNDS):
        # |step - centre|^2 without |step|^2, which is the same for all centres.
        nearest_S = (np.square(centre_KE).sum(axis=1) - 2 * load_SE @ centre_KE.T).argmin(axis=1)
        size_K = np.bincount(nearest_S, minlength=many)
        centre_KE = np.where(size_K[:, None] > 0, _means(load_SE, nearest_S, size_K), centre_KE)
    return nearest_S


def _means(load_SE: np.ndarray, nearest_S: np.ndarray, size_K: np.ndarray) -> np.ndarray:
    member_KS = (nearest_S == np.arange(len(size_K))[:, None]).astype(np.float32)
    mean_KE: np.ndarray = member_KS @ load_SE / np.maximum(size_K, 1).astype(np.float32)[:, None]
    return mean_KE
