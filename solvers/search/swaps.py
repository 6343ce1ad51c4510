"""Swap two copies between a straggler and another GPU: the best disjoint swaps in every placement of a batch.

Axes: K steps, B problems, X experts and one empty slot, G GPUs, C slots of a GPU, M stragglers, Q partners of a
straggler, P = C x Q slots of the partners.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.smoothed_peak import Float, Standing, to_the_power

_LEAST_GAIN = 1e-5
"""Share of the potential that a move must remove; single precision cannot resolve less."""
_MAX_CELLS = 120_000
"""Cells of the largest temporary array: as many as fit the processor's cache."""


def swap_best(batch: PlacementBatch, now: Standing, squarings: int, stragglers: int, partners: int) -> np.ndarray:
    """Swap copies in `batch`, at most once per GPU; returns `moved_B`.

    Tries every copy on the `stragglers` GPUs with the most potential against every copy on the `partners` GPUs with the
    most room when that GPU straggles. The potential is a sum over GPUs, so gains of swaps that share no GPU add up.
    """
    gpus, slots = batch.gpus, batch.expert_BN.shape[1] // batch.gpus
    straggler_BM = np.argsort(-now.potential_BG, axis=1, kind="stable")[:, : min(stragglers, gpus)]
    partner_BMQ = _roomiest(now, straggler_BM, min(partners, gpus - 1))
    slot_C = np.arange(slots) * gpus
    first_BMC = straggler_BM[:, :, None] + slot_C
    second_BMP = (partner_BMQ[:, :, None, :] + slot_C[:, None]).reshape(*straggler_BM.shape, -1)
    at_once = max(1, _MAX_CELLS // (len(now.scale_KB) * second_BMP[0].size * slots))
    found = [
        _best_swaps(batch, now, squarings, first_BMC, second_BMP, slice(start, start + at_once))
        for start in range(0, len(straggler_BM), at_once)
    ]
    change_BM, choice_BM = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first_BM, second_BM = np.divmod(choice_BM, second_BMP.shape[2])
    first_BM = np.take_along_axis(first_BMC, first_BM[:, :, None], axis=2)[:, :, 0]
    second_BM = np.take_along_axis(second_BMP, second_BM[:, :, None], axis=2)[:, :, 0]
    return _apply(batch, change_BM, -_LEAST_GAIN * now.potential_BG.sum(axis=1), first_BM, second_BM)


def _roomiest(now: Standing, straggler_BM: np.ndarray, many: int) -> np.ndarray:
    """`partner_BMQ`: the GPUs with the least load when it matters for the straggler, excluding the straggler itself."""
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
    first_BMC: np.ndarray,
    second_BMP: np.ndarray,
    rows: slice,
) -> tuple[np.ndarray, np.ndarray]:
    """`change_BM` of the potential by the best swap of every straggler, and that swap as a flat index of `[C, P]`."""
    gpus, steps = batch.gpus, len(now.scale_KB)
    first_BMC, second_BMP = first_BMC[rows], second_BMP[rows]
    row_B11 = np.arange(rows.start, rows.start + len(first_BMC))[:, None, None]
    first_at_BMC = first_BMC + row_B11 * batch.expert_BN.shape[1]
    second_at_BMP = second_BMP + row_B11 * batch.expert_BN.shape[1]
    here_at_BM1 = first_BMC[:, :, :1] % gpus + row_B11 * gpus
    there_at_BMP = second_BMP % gpus + row_B11 * gpus

    scale_KB11 = now.scale_KB[:, rows, None, None]
    load_of_slots = batch.load_KBN.reshape(steps, -1)
    load_of_gpus = now.gpu_load_KBG.reshape(steps, -1)
    load_KBMC = load_of_slots.take(first_at_BMC, axis=1) * scale_KB11
    load_KBMP = load_of_slots.take(second_at_BMP, axis=1) * scale_KB11
    left_KBMC = load_of_gpus.take(here_at_BM1, axis=1) - load_KBMC
    left_KBMP = load_of_gpus.take(there_at_BMP, axis=1) - load_KBMP
    both_2KBMCP = np.empty((2, *load_KBMC.shape, second_BMP.shape[2]), dtype=Float)
    np.add(left_KBMC[..., None], load_KBMP[:, :, :, None, :], out=both_2KBMCP[0])
    np.add(left_KBMP[:, :, :, None, :], load_KBMC[..., None], out=both_2KBMCP[1])
    to_the_power(both_2KBMCP, squarings)
    change_BMCP = both_2KBMCP.reshape(2 * steps, *both_2KBMCP.shape[2:]).sum(axis=0)
    change_BMCP -= now.potential_BG.ravel().take(there_at_BMP)[:, :, None, :]
    change_BMCP[_twice(batch, first_at_BMC, second_at_BMP, here_at_BM1 % gpus, there_at_BMP % gpus, row_B11)] = np.inf

    change_BMX = change_BMCP.reshape(*first_BMC.shape[:2], -1)
    choice_BM = change_BMX.argmin(axis=2)
    change_BM = np.take_along_axis(change_BMX, choice_BM[:, :, None], axis=2)[:, :, 0]
    return change_BM - now.potential_BG.ravel().take(here_at_BM1[:, :, 0]), choice_BM


def _twice(
    batch: PlacementBatch,
    first_at_BMC: np.ndarray,
    second_at_BMP: np.ndarray,
    here_BM1: np.ndarray,
    there_BMP: np.ndarray,
    row_B11: np.ndarray,
) -> np.ndarray:
    """`[B, M, C, P]`: whether the swap would put an expert twice on a GPU."""
    holds, expert = batch.holds_BXG.ravel(), batch.expert_BN.ravel()
    row_at_B11 = row_B11 * batch.copies_BX.shape[1]
    first_holds_at_BMC = (expert.take(first_at_BMC) + row_at_B11) * batch.gpus
    second_twice_BMP = holds.take((expert.take(second_at_BMP) + row_at_B11) * batch.gpus + here_BM1)
    partners = there_BMP.shape[2] // first_at_BMC.shape[2]
    # A partner's slots are `partners` apart: the partner is looked up once, not once per slot.
    first_twice_BMCQ = holds.take(first_holds_at_BMC[..., None] + there_BMP[:, :, None, :partners])
    first_twice_BMCP = np.tile(first_twice_BMCQ, first_at_BMC.shape[2])
    return np.logical_or(first_twice_BMCP, second_twice_BMP[:, :, None, :])


def _apply(
    batch: PlacementBatch, change_BM: np.ndarray, least_B: np.ndarray, first_BM: np.ndarray, second_BM: np.ndarray
) -> np.ndarray:
    """Make the swaps of slots `first_BM` and `second_BM`, best first, at most one per GPU; returns `moved_B`."""
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
