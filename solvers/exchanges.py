"""Exchange one replica for a replica of another expert: the best exchange of every placement of a batch.

Axes: B problems, K steps, X experts and one empty slot, G GPUs, N slots in GPU order, W wanted experts.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.smoothed_peak import ExpertLoads, Potential, copies_of, potential, to_the_power

_LEAST_GAIN = 1e-5


def exchange_best(
    loads: ExpertLoads, now: Potential, expert_BN: np.ndarray, copies_BX: np.ndarray, holds_BXG: np.ndarray, wanted: int
) -> np.ndarray:
    """Exchange in `expert_BN` where that raises `Potential.value_B`; returns `moved_B`.

    Tried: every slot that holds one of several copies, for each of the `wanted` experts whose copies would take most
    potential away by becoming lighter. Values are exact but where both experts share a GPU, so the best is checked.
    """
    batch, experts = len(expert_BN), copies_BX.shape[1] - 1
    gpus = now.gpu_load_BKG.shape[2]
    row = np.arange(batch)
    slot_gpu_N = np.repeat(np.arange(gpus), expert_BN.shape[1] // gpus)
    change_BWN, wanted_BW = _changes(loads, now, expert_BN, copies_BX, slot_gpu_N, min(wanted, experts))
    several_BN = (np.take_along_axis(copies_BX, expert_BN, axis=1) > 1) & (expert_BN < experts)
    held_BWN = holds_BXG[row[:, None, None], wanted_BW[:, :, None], slot_gpu_N]
    change_BWN[held_BWN | ~several_BN[:, None, :]] = np.inf
    best_B = change_BWN.reshape(batch, -1).argmin(axis=1)
    choice_B, slot_B = np.divmod(best_B, expert_BN.shape[1])
    least_B = _LEAST_GAIN * now.power_BKG.sum(axis=(1, 2))
    rows = np.flatnonzero(change_BWN[row, choice_B, slot_B] < -least_B)
    moved_B = np.zeros(batch, dtype=bool)
    if not rows.size:
        return moved_B
    tried_RN = expert_BN[rows]
    tried_RN[np.arange(len(rows)), slot_B[rows]] = wanted_BW[rows, choice_B[rows]]
    then = potential(loads.rows(rows), tried_RN, copies_of(tried_RN, experts), gpus)
    better_R = then.value_B > now.value_B[rows] * (1 + _LEAST_GAIN)
    expert_BN[rows[better_R]] = tried_RN[better_R]
    moved_B[rows[better_R]] = True
    return moved_B


def _changes(
    loads: ExpertLoads,
    now: Potential,
    expert_BN: np.ndarray,
    copies_BX: np.ndarray,
    slot_gpu_N: np.ndarray,
    wanted: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`change_BWN` of the potential if slot N took wanted expert W, and `wanted_BW`."""
    experts = copies_BX.shape[1] - 1
    scale_BK1 = now.scale_BK[:, :, None]
    slot_copies_BN = np.take_along_axis(copies_BX, expert_BN, axis=1)
    rest_BKN = now.gpu_load_BKG[:, :, slot_gpu_N] - now.load_BKN
    power_BN = now.power_BKG.sum(axis=1)[:, slot_gpu_N]
    lighter_BKN = rest_BKN + loads.of_copies(expert_BN, slot_copies_BN + 1) * scale_BK1
    relief_BX = _sum_by_expert(power_BN - to_the_power(lighter_BKN).sum(axis=1), expert_BN, experts)
    relief_BX[copies_BX >= len(np.unique(slot_gpu_N))] = -np.inf
    relief_BX[:, experts] = -np.inf
    wanted_BW = np.argsort(-relief_BX, axis=1, kind="stable")[:, :wanted]
    heavier_BKN = rest_BKN + loads.of_copies(expert_BN, slot_copies_BN - 1) * scale_BK1
    burden_BN = to_the_power(heavier_BKN).sum(axis=1) - power_BN
    others_BN = np.take_along_axis(_sum_by_expert(burden_BN, expert_BN, experts), expert_BN, axis=1) - burden_BN
    wanted_copies_BW = np.take_along_axis(copies_BX, wanted_BW, axis=1) + 1
    wanted_BKW = loads.of_copies(wanted_BW, wanted_copies_BW) * scale_BK1
    change_BWN = to_the_power(rest_BKN[:, :, None, :] + wanted_BKW[..., None]).sum(axis=1)
    change_BWN += (others_BN - power_BN)[:, None, :]
    change_BWN -= np.take_along_axis(relief_BX, wanted_BW, axis=1)[:, :, None]
    return change_BWN, wanted_BW


def _sum_by_expert(value_BN: np.ndarray, expert_BN: np.ndarray, experts: int) -> np.ndarray:
    batch = len(expert_BN)
    flat = (expert_BN + (np.arange(batch) * (experts + 1))[:, None]).ravel()
    total = np.bincount(flat, weights=value_BN.ravel(), minlength=batch * (experts + 1))
    return total.reshape(batch, experts + 1).astype(value_BN.dtype)
