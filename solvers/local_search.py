"""Improve many placements at once against individual steps: swaps of copies, exchanges of replicas, until none helps.

Axes: L layers, K steps, E experts, X experts and one empty slot, B problems, G GPUs, C slots of a GPU, N = G x C slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.exchanges import exchange_best
from craftc.solvers.smoothed_peak import ExpertLoads, Float, copies_of, potential
from craftc.solvers.swaps import swap_best

_MAX_CELLS = 200_000
"""Cells of the largest temporary array: what fits the processor's cache."""


@dataclass(frozen=True)
class SearchEffort:
    """How far the search looks in a round, and how many rounds it makes."""

    rounds: int
    """Rounds per problem, at least 1; the search ends earlier where nothing helps."""
    stragglers: int
    """GPUs whose copies are tried in a round, at least 1."""
    partners: int
    """GPUs each of them is tried against, at least 1."""
    wanted: int
    """Experts tried as further replicas, at least 1."""


def search_placements(
    load_LKE: np.ndarray, risk_LE: np.ndarray, layer_B: np.ndarray, expert_BGK: np.ndarray, effort: SearchEffort
) -> np.ndarray:
    """Placements with the same slots per problem as `expert_BGK` (padded with -1) that straggle less.

    load_LKE: loads of the steps searched against, in units of the mean GPU load; risk_LE: see `ExpertLoads`; layer_B:
    the layer of every problem. Which GPUs have one slot more than others may change. The result for a problem does not
    depend on the others in the batch.
    """
    if expert_BGK.shape[1] == 1:
        return expert_BGK
    improved_BGK = np.full_like(expert_BGK, -1)
    most_B = (expert_BGK >= 0).sum(axis=2).max(axis=1)
    experts, steps = load_LKE.shape[2], load_LKE.shape[1]
    padded = ExpertLoads(_with_empty(load_LKE), _with_empty(risk_LE))
    for most in np.unique(most_B):
        alike = np.flatnonzero(most_B == most)
        gpus = expert_BGK.shape[1]
        cells = steps * most * most * min(effort.stragglers, gpus) * min(effort.partners, gpus)
        at_once = max(1, _MAX_CELLS // int(cells))
        for start in range(0, len(alike), at_once):
            rows = alike[start : start + at_once]
            held_BN = np.sort(expert_BGK[rows], axis=2)[:, :, ::-1][:, :, :most].reshape(len(rows), -1)
            held_BN = np.where(held_BN < 0, experts, held_BN).astype(np.int64)
            _search(padded.rows(layer_B[rows]), held_BN, gpus, effort)
            found_BGC = held_BN.reshape(len(rows), gpus, most)
            improved_BGK[rows, :, :most] = np.where(found_BGC == experts, -1, found_BGC)
    return improved_BGK


def _with_empty(value_XE: np.ndarray) -> np.ndarray:
    """One more expert without load, for empty slots."""
    padded = np.zeros((*value_XE.shape[:-1], value_XE.shape[-1] + 1), dtype=Float)
    padded[..., :-1] = value_XE
    return padded


def _search(loads: ExpertLoads, expert_BN: np.ndarray, gpus: int, effort: SearchEffort) -> None:
    """Improve `expert_BN` in place; problems where no move is left drop out."""
    experts = loads.load_BKX.shape[2] - 1
    slot_gpu_N = np.repeat(np.arange(gpus), expert_BN.shape[1] // gpus)
    active = np.arange(len(expert_BN))
    for _ in range(effort.rounds):
        held_BN, here = expert_BN[active], loads.rows(active)
        copies_BX = copies_of(held_BN, experts)
        holds_BXG = np.zeros((len(active), experts + 1, gpus), dtype=bool)
        holds_BXG[np.arange(len(active))[:, None], held_BN, slot_gpu_N] = True
        now = potential(here, held_BN, copies_BX, gpus)
        moved_B = swap_best(now, held_BN, holds_BXG, effort.stragglers, effort.partners)
        stuck = np.flatnonzero(~moved_B & (copies_BX[:, :experts] > 1).any(axis=1))
        if stuck.size:
            tried_BN = held_BN[stuck]
            moved_B[stuck] = exchange_best(
                here.rows(stuck), now.rows(stuck), tried_BN, copies_BX[stuck], holds_BXG[stuck], effort.wanted
            )
            held_BN[stuck] = tried_BN
        expert_BN[active] = held_BN
        active = active[moved_B]
        if not active.size:
            return
