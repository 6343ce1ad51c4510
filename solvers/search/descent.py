"""Steepest descent in numpy: the search where numba cannot be used, and the moves by which a plan in use gets better.

One move at a time: the best swap of a copy on the GPU that straggles most with a copy elsewhere, or, if no swap helps,
the best exchange of a replica for a further copy of an expert on that GPU.

Axes: K steps, X experts and one empty slot (no load), G GPUs, C slots of a GPU, N = G x C slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from craftc.solvers.search.batch import Batch
from craftc.solvers.search.search_loads import LayerLoads, SearchLoads, loads_of_layer
from craftc.solvers.search.settling import keep, settle, start

_LEAST_GAIN = 1e-5
"""Part of the value that a move must gain."""
_MOST_MOVES = 1_000
_MAX_CELLS = 4_000_000
"""Cells of the largest temporary array: copies of a straggler with little load are left out if they are too many."""


def descend_rows(loads: LayerLoads, batch: Batch, first: int, every: int) -> None:
    """As `craftc.solvers.search.annealing.anneal_rows`, but to local optima: proposals, heat and seed do not matter."""
    for row in range(first, len(batch.layer_B), every):
        slot_GC, weight_X = start(loads, batch, row)
        settle(slot_GC, weight_X)
        own = loads_of_layer(loads, int(batch.layer_B[row]), slot_GC.shape[1])
        barred_XG = np.zeros((len(own.risk_X), len(slot_GC)), dtype=bool)
        for stage, squarings in enumerate(batch.squarings_T.tolist()):
            for moved_GC in moves(own, slot_GC.copy(), squarings, batch.falls, barred_XG, _MOST_MOVES):
                slot_GC[:] = moved_GC
            keep(batch, stage, row, slot_GC, len(own.risk_X) - 1)


def moves(
    loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool, barred_XG: np.ndarray, most: int
) -> Iterator[np.ndarray]:
    """`slot_GC` after every move, best move first, at most `most` of them; the array is the same and changes.

    barred_XG: whether a GPU may not be given an expert, bool.
    """
    placed = _Placed.of(loads, slot_GC, squarings, falls)
    for _ in range(most):
        tried = next(
            (
                better
                for candidate_GC in (_best_swap(placed, barred_XG), _best_exchange(placed, barred_XG))
                if candidate_GC is not None
                and (better := _Placed.of(loads, candidate_GC, squarings, falls)).value
                > placed.value + _LEAST_GAIN * abs(placed.value)
            ),
            None,
        )
        if tried is None:
            return
        placed = tried
        slot_GC[:] = placed.slot_GC
        yield slot_GC


@dataclass(frozen=True, eq=False)
class _Placed:
    """A placement with its loads; `copy`, `gpu` and `power` are in units of each step's fullest GPU."""

    loads: SearchLoads
    squarings: int
    slot_GC: np.ndarray
    copies_X: np.ndarray
    holds_XG: np.ndarray
    unit_K: np.ndarray
    copy_XK: np.ndarray
    gpu_GK: np.ndarray
    power_GK: np.ndarray
    slope_K: np.ndarray
    """What one unit of a power takes from the value."""
    value: float

    @classmethod
    def of(cls, loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool) -> _Placed:
        gpus = len(slot_GC)
        copies_X = np.bincount(slot_GC.ravel(), minlength=len(loads.risk_X))
        holds_XG = np.zeros((len(copies_X), gpus), dtype=bool)
        holds_XG[slot_GC, np.arange(gpus)[:, None]] = True
        copy_XK = _copy_loads(loads, np.arange(len(copies_X)), np.maximum(copies_X, 1))
        gpu_GK = copy_XK[slot_GC].sum(axis=1)
        top_K = np.maximum(gpu_GK.max(axis=0), loads.floor_K)
        unit_K = np.divide(1, top_K, out=np.zeros_like(top_K), where=top_K > 0)
        power_GK = _power(gpu_GK * unit_K, squarings)
        busy_K = loads.busy_K[: loads.busy]
        sum_K = (power_GK.sum(axis=0) + _power(loads.floor_K * unit_K, squarings))[busy_K]
        mean_K = sum_K ** (1 / 2**squarings) / unit_K[busy_K]
        term_K = loads.weight_K[busy_K] * (mean_K if falls else 1 / mean_K)
        slope_K = np.zeros_like(top_K)
        slope_K[busy_K] = term_K / (2**squarings * sum_K)
        value = float(-term_K.sum() if falls else term_K.sum())
        scaled = (copy_XK * unit_K, gpu_GK * unit_K, power_GK, slope_K)
        return cls(loads, squarings, slot_GC.copy(), copies_X, holds_XG, unit_K, *scaled, value)

    def losses(self, load_XK: np.ndarray, gpu_X: np.ndarray) -> np.ndarray:
        """What the value loses, to first order, if GPUs took these loads; any axes before the last."""
        losses_X: np.ndarray = (_power(load_XK, self.squarings) - self.power_GK[gpu_X]) @ self.slope_K
        return losses_X


def _best_swap(placed: _Placed, barred_XG: np.ndarray) -> np.ndarray | None:
    """`slot_GC` after the best swap of a copy on the worst straggler; None if none helps."""
    slot_GC = placed.slot_GC
    gpus, slots = slot_GC.shape
    here = _straggler(placed)
    other_N, there_N = slot_GC.ravel(), np.repeat(np.arange(gpus), slots)
    cells = other_N.size * placed.slope_K.size
    first_C = np.argsort(-(placed.copy_XK[slot_GC[here]] @ placed.slope_K), kind="stable")[: _MAX_CELLS // cells + 1]
    mine_C = slot_GC[here, first_C]
    less_CNK = placed.copy_XK[mine_C][:, None] - placed.copy_XK[other_N]
    loss_CN = placed.losses(placed.gpu_GK[here] - less_CNK, np.array(here))
    loss_CN += placed.losses(placed.gpu_GK[there_N] + less_CNK, there_N)
    taken_XG = placed.holds_XG | barred_XG
    loss_CN[taken_XG[mine_C[:, None], there_N] | taken_XG[other_N, here]] = np.inf
    first, second = np.unravel_index(int(loss_CN.argmin()), loss_CN.shape)
    if not loss_CN[first, second] < 0:
        return None
    swapped_GC = slot_GC.copy()
    swapped_GC[here, first_C[first]] = other_N[second]
    swapped_GC.ravel()[second] = mine_C[first]
    return swapped_GC


def _best_exchange(placed: _Placed, barred_XG: np.ndarray) -> np.ndarray | None:
    """`slot_GC` after the best exchange for an expert on the worst straggler; None if none promises to help.

    The promise ignores that both experts may share a GPU: `moves` checks it.
    """
    slot_GC, copies_X = placed.slot_GC, placed.copies_X
    gpus, slots = slot_GC.shape
    experts = len(copies_X) - 1
    loser_N, there_N = slot_GC.ravel(), np.repeat(np.arange(gpus), slots)
    winner_W = np.unique(slot_GC[_straggler(placed)])
    winner_W = winner_W[(winner_W < experts) & (copies_X[winner_W] < gpus)]
    several_N = (copies_X[loser_N] > 1) & (loser_N < experts)
    if not winner_W.size or not several_N.any():
        return None
    lighter_WK = _copy_loads(placed.loads, winner_W, copies_X[winner_W] + 1) * placed.unit_K
    less_WK = placed.copy_XK[winner_W] - lighter_WK
    relief_W = np.array(
        [
            placed.losses(placed.gpu_GK[held_G] - less_K, np.flatnonzero(held_G)).sum()
            for held_G, less_K in zip(placed.holds_XG[winner_W], less_WK, strict=True)
        ]
    )
    heavier_XK = _copy_loads(placed.loads, np.arange(experts + 1), np.maximum(copies_X - 1, 1)) * placed.unit_K
    more_NK = (heavier_XK - placed.copy_XK)[loser_N]
    burden_N = placed.losses(placed.gpu_GK[there_N] + more_NK, there_N)
    others_N = np.bincount(loser_N, burden_N, minlength=experts + 1)[loser_N] - burden_N
    winner_W = winner_W[: _MAX_CELLS // (loser_N.size * placed.slope_K.size) + 1]
    taken_GK = placed.gpu_GK[there_N] - placed.copy_XK[loser_N]
    loss_WN = placed.losses(taken_GK + lighter_WK[: len(winner_W), None], there_N)
    loss_WN += relief_W[: len(winner_W), None] + others_N
    taken_XG = placed.holds_XG | barred_XG
    loss_WN[taken_XG[winner_W[:, None], there_N] | ~several_N] = np.inf
    winner, loser = np.unravel_index(int(loss_WN.argmin()), loss_WN.shape)
    if not loss_WN[winner, loser] < 0:
        return None
    exchanged_GC = slot_GC.copy()
    exchanged_GC.ravel()[loser] = winner_W[winner]
    return exchanged_GC


def _straggler(placed: _Placed) -> int:
    return int((placed.power_GK @ placed.slope_K).argmax())


def _copy_loads(loads: SearchLoads, expert_X: np.ndarray, copies_X: np.ndarray) -> np.ndarray:
    """Loads of one copy of each of some experts if they have so many copies."""
    part_X1 = (1 / copies_X.astype(np.float32))[:, None]
    loads_XK: np.ndarray = loads.load_XK[expert_X] * part_X1 + loads.risk_X[expert_X, None] * part_X1 * part_X1
    return loads_XK


def _power(load: np.ndarray, squarings: int) -> np.ndarray:
    for _ in range(squarings):
        load = load * load
    return load
