"""A cluster whose constants have been fitted to measurements of a server.

Memory first: the fraction of memory and the buffer, from `kv_tokens`. Then time, with that memory: the latency of an
all-to-all, sync, and the efficiencies of network and experts, in this order. No more of them are freed than there are
rows but one, and none that no row tells from those before it. Least squares on log ratios of prediction and
measurement; around its preset every constant has a log-normal prior, so those that measurements say little about stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from craftc.errors import BadInput
from craftc.serving.arm import Arm
from craftc.serving.cluster import Cluster
from craftc.serving.cluster_figures import Figure
from craftc.serving.compared_cells import Cell, Runs, arm_key, comparable, require_room, unqueued
from craftc.serving.fitting import MEMORY, MISS, TIME, at_edge, fitted_ratios, freed_constants, miss_of, with_ratios
from craftc.serving.measurements import QUANTITIES, Measurement, require_sound
from craftc.serving.serving_model import ServingModel

_ROUNDS = 4
"""Fits at most, each with the queue factors of the one before."""
_SETTLED = 0.01
"""Relative change of every constant from fit to fit at which the last fit is kept."""


@dataclass(frozen=True)
class Comparison:
    """One measured cell, and what was expected of it."""

    line: int
    """Line of the measurements."""
    quantity: str
    """Column: throughput, ttft_ms, itl_ms or kv_tokens."""
    measured: float
    """What was measured, in the column's unit, above 0."""
    before: float
    """Prediction with the constants as they were / measured, above 0."""
    after: float
    """Prediction with the fitted constants / measured, above 0."""


@dataclass(frozen=True)
class Calibration:
    """A cluster with constants fitted to measurements, and how well they do."""

    cluster: Cluster
    """The cluster; sources of the fitted constants begin with `calibrated`."""
    freed: tuple[str, ...]
    """Dotted paths of the constants that were fitted; none if no measurement depends on any."""
    before: float
    """Root mean square of the log ratios of prediction and measurement with the constants as they were, at least 0."""
    after: float
    """The same with the fitted ones."""
    left_out: float
    """The same where every row is predicted with constants that were fitted to the other rows."""
    comparisons: tuple[Comparison, ...]
    """Every cell that was compared, by line."""
    warnings: tuple[str, ...]
    """Cells left out, and constants that could not be fitted or ended at an edge; a line each."""


def calibrate(
    measurements: Sequence[Measurement], arms: Mapping[tuple[str, float], Arm], server: ServingModel
) -> Calibration:
    """Fit constants of a server's cluster to measurements.

    arms: what was measured, by name and replicas per GPU.
    server: model, cluster and workload of the measurements. Its limit on time between tokens does not matter here:
    who measures saturation sends as much as the server takes.

    Raises BadInput for too few or contradictory measurements, a row without arm, or one on which the server would have
    no memory for a single request; Unsupported if a row takes too long to simulate.
    """
    require_sound(measurements)
    for row in measurements:
        if arm_key(row) not in arms:
            raise BadInput(f"{row.where}: no arm {row.arm} with {row.replicas_per_gpu:g} replicas per GPU is planned")
    preset = server.cluster
    unlimited = replace(server, workload=replace(server.workload, itl_limit_s=None))
    runs = Runs(unlimited, {arm_key(row): arms[arm_key(row)] for row in measurements}, {})
    cells, warnings = comparable(measurements, server)
    held = [cell for cell in cells if cell.quantity == "kv_tokens"]
    most = len(measurements) - 1
    memory, zeros = freed_constants(MEMORY, most, partial(runs.errors, held), preset)
    memory_ratios = _memory_ratios(memory, held, runs, preset)
    roomy = with_ratios(preset, memory, memory_ratios)
    timed = [cell for cell in cells if cell.quantity != "kv_tokens"]
    require_room(timed, runs, roomy)
    timed, late = unqueued(timed, runs, roomy)
    warnings += [*zeros, *late]
    if not held and not timed:
        raise BadInput(f"{measurements[0].file}: nothing is left to compare: {'; '.join(warnings)}")
    requeued = runs.requeued(timed, roomy)
    most = min(most - len(memory), len({cell.row for cell in timed}) - 1)
    time, zeros = freed_constants(TIME, most, partial(requeued.errors, timed), roomy)
    time_ratios, miss, settled = _settled(time, timed, requeued, roomy)
    freed, ratios = (*memory, *time), np.concatenate([memory_ratios, time_ratios])
    rows = len({cell.row for cell in (*held, *timed)})
    cluster = _sourced(preset, freed, ratios, f"{measurements[0].file}, {rows} rows")
    compared = sorted((*held, *timed), key=lambda cell: (cell.row.line, QUANTITIES.index(cell.quantity)))
    before, after = runs.requeued(timed, preset).errors(compared, preset), settled.errors(compared, cluster)
    return Calibration(
        cluster,
        freed,
        _rms(before),
        _rms(after),
        _rms(_left_out(compared, settled, preset, memory, time, ratios, miss)),
        tuple(
            Comparison(cell.row.line, cell.quantity, cell.measured, math.exp(old), math.exp(new))
            for cell, old, new in zip(compared, before.tolist(), after.tolist(), strict=True)
        ),
        (*warnings, *zeros, *at_edge(preset, freed, ratios)),
    )


def _memory_ratios(paths: Sequence[str], held: Sequence[Cell], runs: Runs, preset: Cluster) -> np.ndarray:
    return fitted_ratios(paths, partial(runs.errors, held), preset, np.ones(len(paths)))


def _settled(paths: Sequence[str], timed: Sequence[Cell], runs: Runs, roomy: Cluster) -> tuple[np.ndarray, float, Runs]:
    """Fitted value / preset of every constant of time, how far off that fit is, and the runs with its queues."""
    ratios, miss = np.ones(len(paths)), MISS
    for _ in range(_ROUNDS):
        before = ratios
        ratios = fitted_ratios(paths, partial(runs.errors, timed), roomy, before, miss)
        miss = miss_of(runs.errors(timed, with_ratios(roomy, paths, ratios)))
        if not len(paths):
            break
        runs = runs.requeued(timed, with_ratios(roomy, paths, ratios))
        if np.abs(np.log(ratios / before)).max() < _SETTLED:
            break
    return ratios, miss, runs


def _left_out(
    cells: Sequence[Cell],
    runs: Runs,
    preset: Cluster,
    memory: Sequence[str],
    time: Sequence[str],
    ratios: np.ndarray,
    miss: float,
) -> np.ndarray:
    """Log ratios of every cell, each row predicted with constants that were fitted to the other rows."""
    errors = []
    for row in dict.fromkeys(cell.row for cell in cells):
        others = [cell for cell in cells if cell.row != row]
        held = [cell for cell in others if cell.quantity == "kv_tokens"]
        timed = [cell for cell in others if cell.quantity != "kv_tokens"]
        roomy = with_ratios(preset, memory, _memory_ratios(memory, held, runs, preset))
        start = ratios[len(memory) :]
        found = fitted_ratios(time, partial(runs.errors, timed), roomy, start, miss)
        own = [cell for cell in cells if cell.row == row]
        errors.append(runs.errors(own, with_ratios(roomy, time, found)))
    return np.concatenate(errors)


def _sourced(preset: Cluster, paths: Sequence[str], ratios: np.ndarray, origin: str) -> Cluster:
    """`preset` with fitted constants, which say where they come from."""
    cluster, figures = with_ratios(preset, paths, ratios), dict(preset.figures)
    for path in paths:
        value = dict(cluster.figures)[path].value
        source = f"calibrated: {origin}, preset {figures[path].value:g}"
        cluster = cluster.with_figure(path, Figure(value, source))
    return cluster


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))
