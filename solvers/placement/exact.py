"""The best placement of layers small enough to try every placement.

Axes: S steps, L layers, E experts, G GPUs, B problems, P placements (names of GPUs ignored), M sets of experts that a
GPU can hold, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

_MOST_PLACEMENTS = 30_000
_MOST_EXPERTS = 64
"""With more, there are too many placements, and counting them takes long."""
_MAX_CELLS = 4_000_000


def exact_placements(
    counts_SLE: np.ndarray, layer_B: np.ndarray, replicas_B: np.ndarray, expert_BGK: np.ndarray
) -> np.ndarray:
    """`expert_BGK` with the best placement over all steps in every problem with few enough placements."""
    experts, gpus = counts_SLE.shape[2], expert_BGK.shape[1]
    best_BGK = expert_BGK.copy()
    for replicas in np.unique(replicas_B).tolist():
        if experts > _MOST_EXPERTS or not 1 < _placements(experts, gpus, replicas) <= _MOST_PLACEMENTS:
            continue
        holds_PGE = _all_placements(experts, gpus, replicas)
        for row in np.flatnonzero(replicas_B == replicas):
            holds_GE = holds_PGE[_best(counts_SLE[:, layer_B[row]], holds_PGE)]
            best_BGK[row] = -1
            for gpu, holds_E in enumerate(holds_GE):
                held = np.flatnonzero(holds_E)
                best_BGK[row, gpu, : len(held)] = held
    return best_BGK


def _placements(experts: int, gpus: int, replicas: int) -> int:
    """Number of placements, including those that lack an expert."""
    low, extra = divmod(experts + replicas, gpus)
    fewer, more = math.comb(experts, low), math.comb(experts, low + 1)
    return math.comb(fewer + gpus - extra - 1, gpus - extra) * (math.comb(more + extra - 1, extra) if extra else 1)


def _all_placements(experts: int, gpus: int, replicas: int) -> np.ndarray:
    """`holds_PGE` bool of every placement that holds all experts."""
    low, extra = divmod(experts + replicas, gpus)
    fewer_PGE = _choices(experts, low, gpus - extra)
    more_PGE = _choices(experts, low + 1, extra)
    first, second = np.divmod(np.arange(len(fewer_PGE) * len(more_PGE)), len(more_PGE))
    holds_PGE = np.concatenate([fewer_PGE[first], more_PGE[second]], axis=1)
    complete_P = np.logical_or.reduce(holds_PGE, axis=1).all(axis=1)
    return holds_PGE[complete_P]


def _choices(experts: int, size: int, gpus: int) -> np.ndarray:
    """`[P, gpus, E]` bool: every way to give `gpus` GPUs sets of `size` experts, regardless of the order of GPUs."""
    sets = list(itertools.combinations(range(experts), size))
    holds_ME = np.zeros((len(sets), experts), dtype=bool)
    for number, held in enumerate(sets):
        holds_ME[number, list(held)] = True
    chosen = list(itertools.combinations_with_replacement(range(len(sets)), gpus))
    return holds_ME[np.array(chosen, dtype=np.int64).reshape(len(chosen), gpus)]


def _best(counts_SE: np.ndarray, holds_PGE: np.ndarray) -> int:
    """The placement with the largest balancedness; steps without tokens do not count."""
    busy_SE = counts_SE[counts_SE.sum(axis=1) > 0].astype(np.float64)
    load_ES = (busy_SE / busy_SE.sum(axis=1, keepdims=True)).T
    value_P = np.empty(len(holds_PGE))
    at_once = max(1, _MAX_CELLS // (holds_PGE[0].size + holds_PGE.shape[1] * load_ES.shape[1]))
    for start in range(0, len(holds_PGE), at_once):
        part_PGE = holds_PGE[start : start + at_once]
        share_PGE = part_PGE / part_PGE.sum(axis=1, keepdims=True)
        value_P[start : start + at_once] = (1 / (share_PGE @ load_ES).max(axis=1)).sum(axis=1)
    return int(value_P.argmax())
