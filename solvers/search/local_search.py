"""Improve many placements at once against individual steps: swap copies and exchange replicas until nothing helps,
then restart with noisy loads and keep what is better.

Axes: L layers, K steps, E experts, X experts and one empty slot, B problems, G GPUs, C slots of a GPU, N = C x G slots,
slot n on GPU n % G.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.effort import SearchEffort, SearchStage
from craftc.solvers.search.exchanges import exchange_best
from craftc.solvers.search.smoothed_peak import ExpertLoads, Float, squarings_for, standing
from craftc.solvers.search.step_compression import RepresentativeSteps
from craftc.solvers.search.swaps import swap_best

_AT_ONCE = 256
"""Problems per batch: enough for numpy to work mostly without Python's lock, which threads otherwise wait for."""
_ROUNDS = 300
"""Most rounds of a descent; nearly all end earlier."""
_WANTED = 4
"""Experts tried for a further replica if no swap helps."""
_SWAP_NOISE, _EXCHANGE_NOISE = 0.1, 0.4
"""Standard deviation of the noise in the logarithm of a load."""
_NOISE_ROUNDS = 2
_PATIENCE = 6
"""Restarts without success after which a problem is given up."""


def search_placements(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int
) -> np.ndarray:
    """Placements that straggle less than `expert_BGC` (padded with -1), with as many slots per problem.

    layer_B: the layer of every problem. Which GPUs have one slot more than others may change. The result for a problem
    depends only on `steps`, its layer, its start, effort and seed, not on other problems in the batch or on threads.
    """
    return search_stages(steps, layer_B, expert_BGC, effort, seed)[-1]


def search_stages(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int
) -> list[np.ndarray]:
    """The placements of `search_placements` after every stage of `effort`."""
    if expert_BGC.shape[1] == 1:
        return [expert_BGC] * len(effort.stages)
    slots_B = (expert_BGC >= 0).sum(axis=2).max(axis=1)
    groups = [np.flatnonzero(slots_B == slots) for slots in np.unique(slots_B)]
    batches = [group[start : start + _AT_ONCE] for group in groups for start in range(0, len(group), _AT_ONCE)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        found = threads.map(lambda rows: _search(steps, layer_B[rows], expert_BGC[rows], effort, seed), batches)
        improved = [np.full_like(expert_BGC, -1) for _ in effort.stages]
        for rows, stages in zip(batches, found, strict=True):
            for improved_BGC, found_BGC in zip(improved, stages, strict=True):
                improved_BGC[rows, :, : found_BGC.shape[2]] = found_BGC
    return improved


def _search(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int
) -> list[np.ndarray]:
    """Search problems that all have as many slots on their fullest GPU; returns the placements after every stage."""
    batch, gpus, _ = expert_BGC.shape
    layers, kept, experts = steps.load_LKE.shape
    most = int((expert_BGC >= 0).sum(axis=2).max())
    squarings = squarings_for(gpus)
    packed_BGC = np.sort(expert_BGC, axis=2)[:, :, ::-1][:, :, :most]
    start_BN = np.where(packed_BGC < 0, experts, packed_BGC).transpose(0, 2, 1).reshape(batch, -1).astype(np.int64)
    best = PlacementBatch.start(_expert_loads(steps, layer_B), start_BN, gpus)
    found = []
    for number, stage in enumerate(effort.stages):
        best = _descend(best, squarings, stage)
        _restart(best, layer_B, squarings, stage, stage.restarts(layers, kept, gpus, most), (seed, number))
        expert_BGC = best.expert_BN.reshape(batch, most, gpus).transpose(0, 2, 1)
        found.append(np.where(expert_BGC == experts, -1, expert_BGC))
    return found


def _restart(
    best: PlacementBatch, layer_B: np.ndarray, squarings: int, stage: SearchStage, restarts: int, key: tuple[int, int]
) -> None:
    """Improve `best` in place by descents after noise; a problem drops out after several that did not help."""
    fruitless_B = np.zeros(len(layer_B), dtype=np.int64)
    for restart in range(restarts):
        rows = np.flatnonzero(fruitless_B < _PATIENCE)
        if not rows.size:
            return
        before = best.rows(rows)
        again = _descend(_shaken(before, layer_B[rows], (*key, restart), squarings, stage), squarings, stage)
        better_R = _value_B(again, squarings) > _value_B(before, squarings)
        fruitless_B[rows] = np.where(better_R, 0, fruitless_B[rows] + 1)
        better = np.flatnonzero(better_R)
        best.put(rows[better], again.rows(better))


def _shaken(
    batch: PlacementBatch, layer_B: np.ndarray, key: tuple[int, int, int], squarings: int, stage: SearchStage
) -> PlacementBatch:
    """The batch after a few rounds of moves that look good under noisy loads: swaps and, in every second restart,
    exchanges under more noise."""
    loads, exchanging = batch.loads, key[2] % 2 == 1
    factor_KBX = _noise(loads, layer_B, key, _EXCHANGE_NOISE if exchanging else _SWAP_NOISE)
    noisy = ExpertLoads(loads.load_KBX * factor_KBX, loads.risk_BX, loads.weight_KB)
    shaken = PlacementBatch.start(noisy, batch.expert_BN.copy(), batch.gpus)
    if exchanging:
        exchange_best(shaken, squarings, _WANTED)
    for _ in range(_NOISE_ROUNDS):
        now = standing(shaken.load_KBN, noisy.weight_KB, batch.gpus, squarings)
        swap_best(shaken, now, squarings, stage.stragglers, stage.partners)
    return PlacementBatch.start(loads, shaken.expert_BN, batch.gpus)


def _expert_loads(steps: RepresentativeSteps, layer_B: np.ndarray) -> ExpertLoads:
    """Loads of a batch, with an extra expert without load for empty slots."""
    _, kept, experts = steps.load_LKE.shape
    load_KBX = np.zeros((kept, len(layer_B), experts + 1), dtype=Float)
    load_KBX[:, :, :experts] = steps.load_LKE[layer_B].transpose(1, 0, 2)
    risk_BX = np.zeros((len(layer_B), experts + 1), dtype=Float)
    risk_BX[:, :experts] = steps.risk_LE[layer_B]
    return ExpertLoads(load_KBX, risk_BX, steps.weight_LK[layer_B].T.astype(Float))


def _noise(loads: ExpertLoads, layer_B: np.ndarray, key: tuple[int, int, int], spread: float) -> np.ndarray:
    """Noise factors of the loads, the same for every problem of a layer."""
    steps, _, experts = loads.load_KBX.shape
    unique, row_B = np.unique(layer_B, return_inverse=True)
    normal = [np.random.default_rng((*key, layer)).normal(0, spread, (steps, experts)) for layer in unique.tolist()]
    return np.exp(np.stack(normal, axis=1)[:, row_B].astype(Float))


def _value_B(batch: PlacementBatch, squarings: int) -> np.ndarray:
    return standing(batch.load_KBN, batch.loads.weight_KB, batch.gpus, squarings).value_B


def _descend(batch: PlacementBatch, squarings: int, stage: SearchStage) -> PlacementBatch:
    """The batch after moves that help; a problem drops out when no move is left."""
    done, working = batch, batch.rows(np.arange(len(batch.expert_BN)))
    number_B = np.arange(len(batch.expert_BN))
    for _ in range(_ROUNDS):
        now = standing(working.load_KBN, working.loads.weight_KB, working.gpus, squarings)
        moved_B = swap_best(working, now, squarings, stage.stragglers, stage.partners)
        stuck = np.flatnonzero(~moved_B & (working.copies_BX[:, : working.experts] > 1).any(axis=1))
        if stuck.size:
            tried = working.rows(stuck)
            moved_B[stuck] = exchange_best(tried, squarings, _WANTED)
            working.put(stuck, tried)
        if moved_B.all():
            continue
        still = np.flatnonzero(~moved_B)
        done.put(number_B[still], working.rows(still))
        going = np.flatnonzero(moved_B)
        working, number_B = working.rows(going), number_B[going]
        if not number_B.size:
            return done
    done.put(number_B, working)
    return done
