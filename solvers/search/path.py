"""The placements that a local search passes through on its way from the placements in use: nearest first.

Axes: L layers, B layers still searched, K steps, X experts and one empty slot, G GPUs, C slots of a GPU, N slots, slot
n on GPU n % G.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.exchanges import exchange_best
from craftc.solvers.search.smoothed_peak import ExpertLoads, Float, squarings_for, standing
from craftc.solvers.search.step_compression import compress_steps
from craftc.solvers.search.swaps import swap_best

_FINE_ROUNDS = 40
"""Rounds of one swap per layer: placements close to the start."""
_COARSE_ROUNDS = 30
"""Later rounds of up to `_STRAGGLERS` swaps per layer: placements that may move much."""
_STRAGGLERS, _PARTNERS, _WANTED = 8, 16, 4
_MOST_STEPS = 64
"""Representative steps searched against."""


def search_path(counts_SLE: np.ndarray, start_LGC: np.ndarray, barred_LEG: np.ndarray) -> list[np.ndarray]:
    """Placements `expert_LGC` (padded with -1), the start first; every GPU keeps its number of slots in every layer.

    barred_LEG: whether a GPU may never hold an expert (because the expert's group is on another node), bool.

    A swap of two copies moves two experts, an exchange of a replica for one of another expert moves one. Each round
    makes the best of them in every layer that still gains.
    """
    layers, gpus, slots = start_LGC.shape
    path = [start_LGC]
    if gpus == 1:
        return path
    experts = counts_SLE.shape[2]
    loads = _loads(counts_SLE, gpus)
    expert_LN = np.where(start_LGC < 0, experts, start_LGC).transpose(0, 2, 1).reshape(layers, -1).astype(np.int64)
    # Every GPU seems to hold an empty slot, so empty slots stay where they are.
    barred_LXG = np.pad(barred_LEG, ((0, 0), (0, 1), (0, 0)), constant_values=True)
    for stragglers, rounds in ((1, _FINE_ROUNDS), (_STRAGGLERS, _COARSE_ROUNDS)):
        batch = PlacementBatch.start(loads, expert_LN.copy(), gpus)
        active = np.arange(layers)
        for _ in range(rounds):
            moved_B = _improve(batch, barred_LXG[active], stragglers)
            if not moved_B.any():
                break
            active, batch = active[moved_B], batch.rows(np.flatnonzero(moved_B))
            expert_LN[active] = batch.expert_BN
            found_LGC = expert_LN.reshape(layers, slots, gpus).transpose(0, 2, 1)
            path.append(np.where(found_LGC == experts, -1, found_LGC).astype(np.int32))
    return path


def _improve(batch: PlacementBatch, barred_BXG: np.ndarray, stragglers: int) -> np.ndarray:
    """One round of swaps, or of one exchange if no swap helps; returns `moved_B`."""
    squarings = squarings_for(batch.gpus)
    # No GPU is given an expert that it seems to hold already.
    np.logical_or(batch.holds_BXG, barred_BXG, out=batch.holds_BXG)
    now = standing(batch.load_KBN, batch.loads.weight_KB, batch.gpus, squarings)
    moved_B = swap_best(batch, now, squarings, stragglers, _PARTNERS)
    stuck = np.flatnonzero(~moved_B & (batch.copies_BX[:, : batch.experts] > 1).any(axis=1))
    if stuck.size:
        tried = batch.rows(stuck)
        exchanged = exchange_best(tried, squarings, _WANTED)
        batch.put(stuck, tried)
        moved_B[stuck] = exchanged
    return moved_B


def _loads(counts_SLE: np.ndarray, gpus: int) -> ExpertLoads:
    """Loads of every layer's representative steps, with an extra expert without load after the others."""
    steps = compress_steps(counts_SLE, gpus, _MOST_STEPS)
    load_LKX = np.pad(steps.load_LKE, ((0, 0), (0, 0), (0, 1))).astype(Float)
    return ExpertLoads(
        np.ascontiguousarray(load_LKX.transpose(1, 0, 2)),
        np.pad(steps.risk_LE, ((0, 0), (0, 1))).astype(Float),
        np.ascontiguousarray(steps.weight_LK.T).astype(Float),
    )
