"""Swap two copies between a straggler and another GPU: the best disjoint swaps of every placement of a batch at once.

Axes: K steps, B problems, X experts and one empty slot, G GPUs, C slots of a GPU, M stragglers, Q partners of a
straggler, D slots of a partner (as many as C).
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.batch_of_placements import PlacementBatch
from craftc.solvers.smoothed_peak import Standing, to_the_power

_LEAST_GAIN = 1e-5
"""Share of the potential that a move must take away; below it, single precision cannot tell."""
_MAX_CELLS = 150_000
"""Cells of the largest temporary array: what fits the processor's cache."""


def swap_best(batch: PlacementBatch, now: Standing, squarings: int, stragglers: int, partners: int) -> np.ndarray:
    """Swap copies in `batch`, at most once per GPU; returns `moved_B`.

    Tried: every copy on the `stragglers` GPUs with the most potential against every copy on the `partners` GPUs that
    have most room when that straggler waits. The potential is a sum over GPUs, so swaps that share no GPU add up.
    """
    gpus = batch.gpus
    straggler_BM = np.argsort(-now.potential_BG, axis=1, kind="stable")[:, : min(stragglers, gpus)]
    partner_BMQ = _roomiest(now, straggler_BM, min(partners, gpus - 1))
    slots = batch.expert_BN.shape[1] // gpus
    at_once = max(1, _MAX_CELLS // (len(now.scale_KB) * partner_BMQ[0].size * slots * slots))
    found = [
        _best_swaps(batch, now, squarings, straggler_BM, partner_BMQ, slice(start, start + at_once))
        for start in range(0, len(straggler_BM), at_once)
    ]
    change_BM, choice_BM = (np.concatenate(parts) for parts in zip(*found, strict=True))
    slot_BM, other = np.divmod(choice_BM, slots * partner_BMQ.shape[2])
    other_BM, partner_BM = np.divmod(other, partner_BMQ.shape[2])
    partner_BM = np.take_along_axis(partner_BMQ, partner_BM[:, :, None], axis=2)[:, :, 0]
    least_B = -_LEAST_GAIN * now.potential_BG.sum(axis=1)
    return _apply(batch, change_BM, least_B, slot_BM * gpus + straggler_BM, other_BM * gpus + partner_BM)


def _roomiest(now: Standing, straggler_BM: np.ndarray, many: int) -> np.ndarray:
    """`partner_BMQ`: the GPUs with the least load where it matters for the straggler, itself excluded."""
    flat_BM = straggler_BM + (np.arange(len(straggler_BM)) * now.potential_BG.shape[1])[:, None]
    steps = len(now.scale_KB)
    load_KBM = now.gpu_load_KBG.reshape(steps, -1).take(flat_BM, axis=1)
    power_KBM = now.power_KBG.reshape(steps, -1).take(flat_BM, axis=1)
    slope_KBM = np.divide(power_KBM, load_KBM, out=np.zeros_like(load_KBM), where=load_KBM > 0)
    in_the_way_BMG = (slope_KBM[..., None] * now.gpu_load_KBG[:, :, None, :]).sum(axis=0)
    np.put_along_axis(in_the_way_BMG, straggler_BM[:, :, None], np.inf, axis=2)
    if many == in_the_way_BMG.shape[2] - 1:
        return np.argsort(in_the_way_BMG, axis=2, kind="stable")[:, :, :many]
    return np.argpartition(in_the_way_BMG, many - 1, axis=2)[:, :, :many]


def _best_swaps(
    batch: PlacementBatch,
    now: Standing,
    squarings: int,
    straggler_BM: np.ndarray,
    partner_BMQ: np.ndarray,
    rows: slice,
) -> tuple[np.ndarray, np.ndarray]:
    """`change_BM` of the potential under the best swap of every straggler, and which one: flat index `[C, D, Q]`."""
    gpus, steps = batch.gpus, len(now.scale_KB)
    straggler_BM, partner_BMQ = straggler_BM[rows], partner_BMQ[rows]
    number_B = np.arange(rows.start, rows.start + len(straggler_BM))
    slot_C = np.arange(batch.expert_BN.shape[1] // gpus) * gpus
    first_BMC = straggler_BM[:, :, None] + slot_C + (number_B * batch.expert_BN.shape[1])[:, None, None]
    second_BMDQ = partner_BMQ[:, :, None, :] + slot_C[:, None]
    second_BMDQ = second_BMDQ + (number_B * batch.expert_BN.shape[1])[:, None, None, None]
    straggler_at_BM = straggler_BM + (number_B * gpus)[:, None]
    partner_at_BMQ = partner_BMQ + (number_B * gpus)[:, None, None]

    scale_KB = now.scale_KB[:, rows]
    slot_load = batch.load_KBN.reshape(steps, -1)
    gpu_load = now.gpu_load_KBG.reshape(steps, -1)
    mine_KBMC = slot_load.take(first_BMC, axis=1) * scale_KB[:, :, None, None]
    theirs_KBMDQ = slot_load.take(second_BMDQ, axis=1) * scale_KB[:, :, None, None, None]
    shift_KBMCDQ = theirs_KBMDQ[:, :, :, None] - mine_KBMC[..., None, None]
    power_KBMCDQ = shift_KBMCDQ + gpu_load.take(straggler_at_BM, axis=1)[:, :, :, None, None, None]
    to_the_power(power_KBMCDQ, squarings)
    partner_load_KBMQ = gpu_load.take(partner_at_BMQ, axis=1)
    np.subtract(partner_load_KBMQ[:, :, :, None, None, :], shift_KBMCDQ, out=shift_KBMCDQ)
    power_KBMCDQ += to_the_power(shift_KBMCDQ, squarings)
    change_BMCDQ = power_KBMCDQ.sum(axis=0)
    change_BMCDQ -= now.potential_BG.ravel().take(partner_at_BMQ)[:, :, None, None, :]
    change_BMCDQ[_twice(batch, first_BMC, second_BMDQ, straggler_BM, partner_BMQ, number_B)] = np.inf

    change_BMX = change_BMCDQ.reshape(*straggler_BM.shape, -1)
    choice_BM = change_BMX.argmin(axis=2)
    change_BM = np.take_along_axis(change_BMX, choice_BM[:, :, None], axis=2)[:, :, 0]
    return change_BM - now.potential_BG.ravel().take(straggler_at_BM), choice_BM


def _twice(
    batch: PlacementBatch,
    first_BMC: np.ndarray,
    second_BMDQ: np.ndarray,
    straggler_BM: np.ndarray,
    partner_BMQ: np.ndarray,
    number_B: np.ndarray,
) -> np.ndarray:
    """`[B, M, C, D, Q]`: whether the swap would put an expert twice on a GPU."""
    holds, expert = batch.holds_BXG.ravel(), batch.expert_BN.ravel()
    row_at_B = number_B * batch.copies_BX.shape[1]
    mine_at_BMC = (expert.take(first_BMC) + row_at_B[:, None, None]) * batch.gpus
    theirs_at_BMDQ = (expert.take(second_BMDQ) + row_at_B[:, None, None, None]) * batch.gpus
    mine_BMCQ = holds.take(mine_at_BMC[..., None] + partner_BMQ[:, :, None, :])
    theirs_BMDQ = holds.take(theirs_at_BMDQ + straggler_BM[:, :, None, None])
    return np.logical_or(mine_BMCQ[:, :, :, None, :], theirs_BMDQ[:, :, None])


def _apply(
    batch: PlacementBatch, change_BM: np.ndarray, least_B: np.ndarray, first_BM: np.ndarray, second_BM: np.ndarray
) -> np.ndarray:
    """Swap slots `first` and `second`, best first, where neither GPU has been touched; returns `moved_B`."""
    number_B = np.arange(len(change_BM))
    touched_BG = np.zeros((len(change_BM), batch.gpus), dtype=bool)
    for choice_B in np.argsort(change_BM, axis=1, kind="stable").T:
        good_B = change_BM[number_B, choice_B] < least_B
        if not good_B.any():
            break
        first_B, second_B = first_BM[number_B, choice_B], second_BM[number_B, choice_B]
        here_B, there_B = first_B % batch.gpus, second_B % batch.gpus
        rows = np.flatnonzero(good_B & ~touched_BG[number_B, here_B] & ~touched_BG[number_B, there_B])
        batch.swap(rows, first_B[rows], second_B[rows])
        touched_BG[rows, here_B[rows]] = touched_BG[rows, there_B[rows]] = True
    return np.logical_or.reduce(touched_BG, axis=1)
