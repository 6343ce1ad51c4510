"""Swap two copies between a straggler and another GPU: the best disjoint swaps of a batch of placements, all at once.

Axes: B problems, K steps, X experts and one empty slot, G GPUs, C slots of a GPU, N = G x C slots, M stragglers,
Q partners of a straggler, P = Q x C slots of the partners.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.smoothed_peak import Potential, to_the_power

_LEAST_GAIN = 1e-5
"""Share of the potential that a move must take away; below it, single precision cannot tell."""


def swap_best(
    now: Potential, expert_BN: np.ndarray, holds_BXG: np.ndarray, stragglers: int, partners: int
) -> np.ndarray:
    """Swap in `expert_BN`, at most once per GPU; returns `moved_B`.

    Tried: every copy on the `stragglers` GPUs with the most potential against every copy on the `partners` GPUs that
    have most room when that straggler waits. The potential is a sum over GPUs, so swaps that share no GPU add up.
    """
    batch, _, gpus = now.gpu_load_BKG.shape
    row = np.arange(batch)
    weight_BG = now.power_BKG.sum(axis=1)
    straggler_BM = _heaviest(weight_BG, min(stragglers, gpus))
    partner_BMQ = _roomiest(now, straggler_BM, min(partners, gpus - 1))
    change_BMCP = _changes(now, weight_BG, straggler_BM, partner_BMQ)
    slots = change_BMCP.shape[2]
    held_BGC = expert_BN.reshape(batch, gpus, slots)
    from_BMC = np.take_along_axis(held_BGC, straggler_BM[:, :, None], axis=1)
    to_BMP = np.take_along_axis(held_BGC, partner_BMQ.reshape(batch, -1, 1), axis=1).reshape(*straggler_BM.shape, -1)
    gpu_BMP = np.repeat(partner_BMQ, slots, axis=2)
    at = row[:, None, None, None]
    twice_BMCP = holds_BXG[at, from_BMC[..., None], gpu_BMP[:, :, None, :]]
    change_BMCP[twice_BMCP | holds_BXG[at, to_BMP[:, :, None, :], straggler_BM[:, :, None, None]]] = np.inf
    flat_BMX = change_BMCP.reshape(*straggler_BM.shape, -1)
    best_BM = flat_BMX.argmin(axis=2)
    gain_BM = -np.take_along_axis(flat_BMX, best_BM[..., None], axis=2)[..., 0]
    slot_BM, other_BM = np.divmod(best_BM, change_BMCP.shape[3])
    other_gpu_BM = np.take_along_axis(gpu_BMP, other_BM[..., None], axis=2)[..., 0]
    first_BM = straggler_BM * slots + slot_BM
    second_BM = other_gpu_BM * slots + other_BM % slots
    return _apply(expert_BN, gain_BM, _LEAST_GAIN * weight_BG.sum(axis=1), first_BM, second_BM, gpus)


def _heaviest(weight_BG: np.ndarray, many: int) -> np.ndarray:
    return np.argsort(-weight_BG, axis=1, kind="stable")[:, :many]


def _roomiest(now: Potential, straggler_BM: np.ndarray, many: int) -> np.ndarray:
    """`partner_BMQ`: the GPUs with the least load where it matters for the straggler, itself excluded."""
    load_BKM = np.take_along_axis(now.gpu_load_BKG, straggler_BM[:, None, :], axis=2)
    power_BKM = np.take_along_axis(now.power_BKG, straggler_BM[:, None, :], axis=2)
    slope_BKM = np.divide(power_BKM, load_BKM, out=np.zeros_like(load_BKM), where=load_BKM > 0)
    in_the_way_BMG = np.einsum("bkm,bkg->bmg", slope_BKM, now.gpu_load_BKG)
    np.put_along_axis(in_the_way_BMG, straggler_BM[:, :, None], np.inf, axis=2)
    if many >= in_the_way_BMG.shape[2] - 1:
        return np.argsort(in_the_way_BMG, axis=2, kind="stable")[:, :, :many]
    return np.argpartition(in_the_way_BMG, many - 1, axis=2)[:, :, :many]


def _changes(now: Potential, weight_BG: np.ndarray, straggler_BM: np.ndarray, partner_BMQ: np.ndarray) -> np.ndarray:
    """`change_BMCP`: potential after swapping slot C of straggler M with slot P of its partners, less that before."""
    batch, steps, gpus = now.gpu_load_BKG.shape
    load_BKGC = now.load_BKN.reshape(batch, steps, gpus, -1)
    slots = load_BKGC.shape[3]
    flat_partner_B1X = partner_BMQ.reshape(batch, 1, -1)
    shape = (batch, steps, *partner_BMQ.shape[1:])
    mine_BKMC = np.take_along_axis(load_BKGC, straggler_BM[:, None, :, None], axis=2)
    theirs_BKMP = np.take_along_axis(load_BKGC, flat_partner_B1X[..., None], axis=2).reshape(*shape[:3], -1)
    load_BKM = np.take_along_axis(now.gpu_load_BKG, straggler_BM[:, None, :], axis=2)
    partner_load_BKMQ = np.take_along_axis(now.gpu_load_BKG, flat_partner_B1X, axis=2).reshape(shape)
    shift_BKMCP = theirs_BKMP[:, :, :, None, :] - mine_BKMC[..., None]
    straggler_BKMCP = to_the_power(shift_BKMCP + load_BKM[..., None, None])
    np.subtract(np.repeat(partner_load_BKMQ, slots, axis=3)[:, :, :, None, :], shift_BKMCP, out=shift_BKMCP)
    straggler_BKMCP += to_the_power(shift_BKMCP)
    change_BMCP = straggler_BKMCP.sum(axis=1)
    partner_weight_BMQ = np.take_along_axis(weight_BG, flat_partner_B1X[:, 0], axis=1).reshape(partner_BMQ.shape)
    change_BMCP -= np.repeat(partner_weight_BMQ, slots, axis=2)[:, :, None, :]
    change_BMCP -= np.take_along_axis(weight_BG, straggler_BM, axis=1)[:, :, None, None]
    return change_BMCP


def _apply(
    expert_BN: np.ndarray,
    gain_BM: np.ndarray,
    least_B: np.ndarray,
    first_BM: np.ndarray,
    second_BM: np.ndarray,
    gpus: int,
) -> np.ndarray:
    """Swap slots `first` and `second` in order of gain where neither GPU has been touched; returns `moved_B`."""
    slots = expert_BN.shape[1] // gpus
    row = np.arange(len(expert_BN))
    touched_BG = np.zeros((len(expert_BN), gpus), dtype=bool)
    order_BM = np.argsort(-gain_BM, axis=1, kind="stable")
    for choice_B in order_BM.T:
        first_B, second_B = first_BM[row, choice_B], second_BM[row, choice_B]
        free_B = ~touched_BG[row, first_B // slots] & ~touched_BG[row, second_B // slots]
        rows = np.flatnonzero(free_B & (gain_BM[row, choice_B] > least_B))
        if not rows.size:
            continue
        first, second = first_B[rows], second_B[rows]
        expert_BN[rows, first], expert_BN[rows, second] = expert_BN[rows, second], expert_BN[rows, first]
        touched_BG[rows, first // slots] = touched_BG[rows, second // slots] = True
    return np.logical_or.reduce(touched_BG, axis=1)
