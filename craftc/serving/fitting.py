"""Fitting constants of a cluster: least squares on log ratios of prediction and measurement.

Around its preset every constant has a log-normal prior, so those that measurements say little about stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

from craftc.serving.cluster import Cluster
from craftc.serving.cluster_figures import LARGEST, Figure

MEMORY = ("server.memory_fraction", "server.buffer_gib_per_rank")
"""Constants of memory that can be fitted, in the order in which they are freed."""
TIME = ("network.all_to_all_latency_ms", "server.sync", "network.efficiency", "chip.expert_efficiency")
"""Constants of time that can be fitted, in the order in which they are freed."""
_HIGHEST = {
    "server.memory_fraction": 1.0,
    "server.buffer_gib_per_rank": LARGEST,
    "network.all_to_all_latency_ms": LARGEST,
    "server.sync": 1.0,
    "network.efficiency": 1.0,
    "chip.expert_efficiency": 1.0,
}
"""The highest value that a cluster can have."""
_PRIOR = 0.4
"""Standard deviation of the logarithm of a constant around its preset."""
MISS = 0.05
"""Standard deviation of the logarithm of a measurement around its prediction, to begin with: about the model's own on
the ten ratios of goodput in arXiv 2603.28768, as `python -m benchmarks.serving_model` prints."""
_LEAST_MISS = 0.01
"""The least that it is taken for, however well predictions fit."""
_FARTHEST = 5.0
"""Factor from the preset, either way, up to which constants are looked for: four standard deviations of the prior."""
_TRIAL = 1e-5
"""Relative change of a constant that shows which predictions it moves."""
_EDGE = 1.001
"""Factor from the edge within which a constant has ended there."""
_FELT = 1e-3
"""Change of the logarithm of a prediction per change of that of a constant, below which the constant is not felt."""

Errors = Callable[[Cluster], np.ndarray]
"""Log ratios of prediction and measurement on a cluster."""


def freed_constants(
    constants: Sequence[str], most: int, errors: Errors, cluster: Cluster
) -> tuple[list[str], list[str]]:
    """The first `most` constants that move predictions in ways that those before do not, and a line for every one that
    is 0."""
    freed: list[str] = []
    zeros = []
    figures, base = dict(cluster.figures), errors(cluster)
    columns = np.empty((len(base), 0))
    for path in constants:
        if len(freed) >= most or not len(base):
            break
        value = figures[path].value
        scale = value or 1.0
        trial = _TRIAL if value + _TRIAL * scale <= _HIGHEST[path] else -_TRIAL
        moved = (errors(cluster.with_figure(path, Figure(value + trial * scale, "a trial"))) - base) / trial
        rest = moved - columns @ np.linalg.lstsq(columns, moved, rcond=None)[0]
        if np.abs(rest).max() < _FELT * max(1.0, np.abs(moved).max()):
            continue
        if value == 0:
            zeros.append(f"{path} is 0 and was not fitted: to fit it, give a value to start from in a cluster file")
            continue
        freed.append(path)
        columns = np.column_stack([columns, moved])
    return freed, zeros


def miss_of(errors: np.ndarray) -> float:
    """Standard deviation that errors of a fit speak for: the better it fits, the less the prior may pull."""
    return float(np.clip(np.sqrt(np.mean(errors**2)), _LEAST_MISS, MISS)) if len(errors) else MISS


def fitted_ratios(
    paths: Sequence[str], errors: Errors, preset: Cluster, start: np.ndarray, miss: float = MISS
) -> np.ndarray:
    """Fitted value / preset of every constant, looked for from the ratios `start`.

    miss: standard deviation of the logarithm of a measurement around its prediction.
    """
    if not paths:
        return np.ones(0)
    most = np.array([_most(preset, path) for path in paths])

    def residuals(ratios: np.ndarray) -> np.ndarray:
        return np.concatenate([errors(with_ratios(preset, paths, ratios)) / miss, np.log(ratios) / _PRIOR])

    found: np.ndarray = least_squares(
        residuals,
        start,
        bounds=(1 / _FARTHEST, most),
        diff_step=1e-4,
        xtol=1e-3,
        ftol=1e-5,
    ).x
    return found


def with_ratios(preset: Cluster, paths: Sequence[str], ratios: np.ndarray, source: str = "a trial") -> Cluster:
    """`preset` with some of its constants multiplied."""
    figures = dict(preset.figures)
    changed = preset
    for path, ratio in zip(paths, ratios.tolist(), strict=True):
        value = min(figures[path].value * ratio, _HIGHEST[path])
        changed = changed.with_figure(path, Figure(value, source))
    return changed


def at_edge(preset: Cluster, paths: Sequence[str], ratios: np.ndarray) -> list[str]:
    """A line for every constant that ended at the edge of where it was looked for."""
    lines = []
    figures = dict(preset.figures)
    for path, ratio in zip(paths, ratios.tolist(), strict=True):
        start, most = figures[path].value, _most(preset, path)
        if 1 / _FARTHEST * _EDGE < ratio < most / _EDGE or ratio == 1:
            continue
        why = "the most that it can be" if ratio > 1 and most < _FARTHEST else f"{_FARTHEST:g} times from {start:g}"
        lines.append(
            f"{path} ended at {start * ratio:.3g}, {why}: the measurements ask for more than it explains; check their "
            f"units, and the plan, loads and cluster that they belong to"
        )
    return lines


def _most(preset: Cluster, path: str) -> float:
    """Highest ratio to the preset that is tried."""
    return min(_FARTHEST, _HIGHEST[path] / dict(preset.figures)[path].value)
