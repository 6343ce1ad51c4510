"""A few weighted steps that stand for thousands: k-means of the steps' expert loads, each layer on its own.

Axes: S steps, L layers, E experts, K representative steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS = 6
_RISK_OF_FEW_STEPS = 1.5
"""Share of an expert's variance, times the number of steps seen, that counts as risk. On held-out steps of recorded
traces 1.5 was best for GLM-5.2, 0.005 better than 3; elsewhere 0.75 to 3 differ only by noise."""


@dataclass(frozen=True, eq=False)
class RepresentativeSteps:
    """The steps that a search uses, with loads in units of the mean GPU load of their step."""

    load_LKE: np.ndarray
    """Loads of every expert, float32."""
    weight_LK: np.ndarray
    """Share of all steps that each stands for, summing to 1 per layer."""
    risk_LE: np.ndarray
    """Variance of an expert's load that these steps do not show, float32."""


def compress_steps(
    counts_SLE: np.ndarray, gpus: int, most: int, weight_SL: np.ndarray | None = None
) -> RepresentativeSteps:
    """At most `most` steps per layer that stand for all of `counts_SLE`, weighted evenly or by `weight_SL`.

    The difference between a step and its representative counts as risk, and so does part of the variance over all
    steps if there are few: future steps will differ from those seen.
    """
    steps, layers, experts = counts_SLE.shape
    kept = min(most, steps)
    load_LKE = np.zeros((layers, kept, experts), dtype=np.float32)
    weight_LK = np.zeros((layers, kept))
    risk_LE = np.zeros((layers, experts), dtype=np.float32)
    for layer in range(layers):
        load_SE = _in_gpu_loads(counts_SLE[:, layer], gpus)
        nearest_S = np.arange(steps) if kept == steps else _nearest(load_SE, kept)
        size_K = np.bincount(nearest_S, minlength=kept)
        load_KE = _means(load_SE, nearest_S, size_K)
        between_E = load_SE.var(axis=0)
        hidden_E = (np.square(load_SE - load_KE[nearest_S])).mean(axis=0)
        part_S = np.full(steps, 1 / steps) if weight_SL is None else weight_SL[:, layer] / weight_SL[:, layer].sum()
        load_LKE[layer], weight_LK[layer] = load_KE, np.bincount(nearest_S, weights=part_S, minlength=kept)
        risk_LE[layer] = hidden_E + _RISK_OF_FEW_STEPS / max(steps, 6) * between_E
    return RepresentativeSteps(load_LKE, weight_LK, risk_LE)


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
