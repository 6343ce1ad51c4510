"""Improve many placements at once against individual steps: swaps of copies and exchanges of replicas, until none
helps; then again from loads with noise, keeping what is better.

Axes: L layers, K steps, E experts, X experts and one empty slot, B problems, G GPUs, C slots of a GPU, N = C x G slots,
slot n on GPU n % G.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from craftc.solvers.batch_of_placements import PlacementBatch
from craftc.solvers.exchanges import exchange_best
from craftc.solvers.smoothed_peak import ExpertLoads, Float, squarings_for, standing
from craftc.solvers.step_compression import RepresentativeSteps
from craftc.solvers.swaps import swap_best

_AT_ONCE = 64
"""Problems of a batch: enough to hide the cost of a call, few enough to share among threads."""
_NOISE = 0.1
"""Spread of the logarithm of a load with noise."""
_NOISE_ROUNDS = 2


@dataclass(frozen=True)
class SearchEffort:
    """How far the search looks in a round, how many rounds it makes, and how often it starts over."""

    rounds: int
    """Rounds of a descent, at least 1; it ends earlier where nothing helps."""
    stragglers: int
    """GPUs whose copies are tried in a round, at least 1."""
    partners: int
    """GPUs each of them is tried against, at least 1."""
    wanted: int
    """Experts tried as further replicas, at least 1."""
    restarts: int
    """Descents from loads with noise after the first, at least 0."""


def search_placements(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int
) -> np.ndarray:
    """Placements with the same slots per problem as `expert_BGC` (padded with -1) that straggle less.

    layer_B: the layer of every problem. Which GPUs have one slot more than others may change. The result for a problem
    depends on its layer, start, effort and seed alone, not on the others in the batch or on the number of threads.
    """
    if expert_BGC.shape[1] == 1:
        return expert_BGC
    slots_B = (expert_BGC >= 0).sum(axis=2).max(axis=1)
    groups = [np.flatnonzero(slots_B == slots) for slots in np.unique(slots_B)]
    batches = [group[start : start + _AT_ONCE] for group in groups for start in range(0, len(group), _AT_ONCE)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        found = threads.map(lambda rows: _search(steps, layer_B[rows], expert_BGC[rows], effort, seed), batches)
        improved_BGC = np.full_like(expert_BGC, -1)
        for rows, found_BGC in zip(batches, found, strict=True):
            improved_BGC[rows, :, : found_BGC.shape[2]] = found_BGC
    return improved_BGC


def _search(
    steps: RepresentativeSteps, layer_B: np.ndarray, expert_BGC: np.ndarray, effort: SearchEffort, seed: int
) -> np.ndarray:
    """Search problems with as many slots on their fullest GPU each."""
    batch, gpus, _ = expert_BGC.shape
    experts = steps.risk_LE.shape[1]
    most = int((expert_BGC >= 0).sum(axis=2).max())
    squarings = squarings_for(gpus)
    packed_BGC = np.sort(expert_BGC, axis=2)[:, :, ::-1][:, :, :most]
    start_BN = np.where(packed_BGC < 0, experts, packed_BGC).transpose(0, 2, 1).reshape(batch, -1).astype(np.int64)
    loads = _expert_loads(steps, layer_B)
    best = _descend(PlacementBatch.start(loads, start_BN, gpus), squarings, effort)
    for restart in range(effort.restarts):
        noisy = ExpertLoads(loads.load_KBX * _noise(loads, layer_B, (seed, restart)), loads.risk_BX, loads.weight_KB)
        shaken = PlacementBatch.start(noisy, best.expert_BN.copy(), gpus)
        for _ in range(_NOISE_ROUNDS):
            now = standing(shaken.load_KBN, noisy.weight_KB, gpus, squarings)
            swap_best(shaken, now, squarings, effort.stragglers, effort.partners)
        found = _descend(PlacementBatch.start(loads, shaken.expert_BN, gpus), squarings, effort)
        better = np.flatnonzero(_value_B(found, squarings) > _value_B(best, squarings))
        best.put(better, found.rows(better))
    found_BGC = best.expert_BN.reshape(batch, most, gpus).transpose(0, 2, 1)
    return np.where(found_BGC == experts, -1, found_BGC)


def _expert_loads(steps: RepresentativeSteps, layer_B: np.ndarray) -> ExpertLoads:
    """Loads of a batch with one more expert that has none, for empty slots."""
    _, kept, experts = steps.load_LKE.shape
    load_KBX = np.zeros((kept, len(layer_B), experts + 1), dtype=Float)
    load_KBX[:, :, :experts] = steps.load_LKE[layer_B].transpose(1, 0, 2)
    risk_BX = np.zeros((len(layer_B), experts + 1), dtype=Float)
    risk_BX[:, :experts] = steps.risk_LE[layer_B]
    return ExpertLoads(load_KBX, risk_BX, steps.weight_LK[layer_B].T.astype(Float))


def _noise(loads: ExpertLoads, layer_B: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Factors of the loads, the same for every problem of a layer."""
    steps, _, experts = loads.load_KBX.shape
    unique, row_B = np.unique(layer_B, return_inverse=True)
    spread = [np.random.default_rng((*key, layer)).normal(0, _NOISE, (steps, experts)) for layer in unique.tolist()]
    return np.exp(np.stack(spread, axis=1)[:, row_B].astype(Float))


def _value_B(batch: PlacementBatch, squarings: int) -> np.ndarray:
    return standing(batch.load_KBN, batch.loads.weight_KB, batch.gpus, squarings).value_B


def _descend(batch: PlacementBatch, squarings: int, effort: SearchEffort) -> PlacementBatch:
    """The batch after moves that help, problems dropping out where none is left."""
    done, working = batch, batch.rows(np.arange(len(batch.expert_BN)))
    number_B = np.arange(len(batch.expert_BN))
    for _ in range(effort.rounds):
        now = standing(working.load_KBN, working.loads.weight_KB, working.gpus, squarings)
        moved_B = swap_best(working, now, squarings, effort.stragglers, effort.partners)
        stuck = np.flatnonzero(~moved_B & (working.copies_BX[:, : working.experts] > 1).any(axis=1))
        if stuck.size:
            tried = working.rows(stuck)
            moved_B[stuck] = exchange_best(tried, squarings, effort.wanted)
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
