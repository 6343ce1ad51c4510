"""Exchange one replica for a replica of another expert: the best exchange in every placement of a batch.

Axes: K steps, B problems, R rows where an exchange promises to help, X experts and one empty slot, G GPUs, N slots,
W wanted experts.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.search.batch import PlacementBatch
from craftc.solvers.search.smoothed_peak import Standing, standing, sum_by_expert, to_the_power

_LEAST_GAIN = 1e-5


def exchange_best(batch: PlacementBatch, squarings: int, wanted: int) -> np.ndarray:
    """Exchange replicas in `batch` if that raises `Standing.value_B`; returns `moved_B`.

    Tries every slot that holds one of several copies, for each of the `wanted` experts whose copies would lower the
    potential most by becoming lighter. Values are exact unless both experts share a GPU, so the best one is checked.
    """
    number_B = np.arange(len(batch.expert_BN))
    now = standing(batch.load_KBN, batch.loads.weight_KB, batch.gpus, squarings)
    wanted_BW, relief_BW = _wanted(batch, now, squarings, min(wanted, batch.experts))
    change_BWN = _changes(batch, now, squarings, wanted_BW)
    change_BWN -= relief_BW[:, :, None]
    choice_B, slot_B = np.divmod(change_BWN.reshape(len(number_B), -1).argmin(axis=1), batch.expert_BN.shape[1])
    least_B = -_LEAST_GAIN * now.potential_BG.sum(axis=1)
    moved_B = np.zeros(len(number_B), dtype=bool)
    rows = np.flatnonzero(change_BWN[number_B, choice_B, slot_B] < least_B)
    if not rows.size:
        return moved_B
    expert_RN = batch.expert_BN[rows]
    expert_RN[np.arange(len(rows)), slot_B[rows]] = wanted_BW[rows, choice_B[rows]]
    tried = PlacementBatch.start(batch.loads.rows(rows), expert_RN, batch.gpus)
    then = standing(tried.load_KBN, tried.loads.weight_KB, batch.gpus, squarings)
    better = np.flatnonzero(then.value_B > now.value_B[rows] * (1 + _LEAST_GAIN))
    batch.put(rows[better], tried.rows(better))
    moved_B[rows[better]] = True
    return moved_B


def _rest(batch: PlacementBatch, now: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Weighted load of every slot's GPU without that slot, and the potential of that GPU with it."""
    slot_gpu_N = np.arange(batch.expert_BN.shape[1]) % batch.gpus
    rest_KBN = now.gpu_load_KBG[:, :, slot_gpu_N] - batch.load_KBN * now.scale_KB[:, :, None]
    return rest_KBN, now.potential_BG[:, slot_gpu_N]


def _wanted(batch: PlacementBatch, now: Standing, squarings: int, many: int) -> tuple[np.ndarray, np.ndarray]:
    """`wanted_BW`: experts whose copies lower the potential most if one more makes them lighter; and by how much."""
    rest_KBN, potential_BN = _rest(batch, now)
    copies_BN = np.take_along_axis(batch.copies_BX, batch.expert_BN, axis=1)
    lighter_KBN = batch.loads.of_copies(batch.expert_BN, copies_BN + 1)
    lighter_KBN *= now.scale_KB[:, :, None]
    lighter_KBN += rest_KBN
    relief_BN = potential_BN - to_the_power(lighter_KBN, squarings).sum(axis=0)
    relief_BX = sum_by_expert(relief_BN, batch.expert_BN, batch.experts + 1)
    relief_BX[batch.copies_BX >= batch.gpus] = -np.inf
    relief_BX[:, batch.experts] = -np.inf
    wanted_BW = np.argsort(-relief_BX, axis=1, kind="stable")[:, :many]
    return wanted_BW, np.take_along_axis(relief_BX, wanted_BW, axis=1)


def _changes(batch: PlacementBatch, now: Standing, squarings: int, wanted_BW: np.ndarray) -> np.ndarray:
    """`change_BWN`: change of the potential if slot N took expert W, without the relief of W's other copies."""
    slots = batch.expert_BN.shape[1]
    number_B = np.arange(len(batch.expert_BN))
    scale_KB1 = now.scale_KB[:, :, None]
    rest_KBN, potential_BN = _rest(batch, now)
    copies_BN = np.take_along_axis(batch.copies_BX, batch.expert_BN, axis=1)
    heavier_KBN = batch.loads.of_copies(batch.expert_BN, copies_BN - 1) * scale_KB1 + rest_KBN
    burden_BN = to_the_power(heavier_KBN, squarings).sum(axis=0) - potential_BN
    burden_BX = sum_by_expert(burden_BN, batch.expert_BN, batch.experts + 1)
    others_BN = np.take_along_axis(burden_BX, batch.expert_BN, axis=1) - burden_BN
    wanted_load_KBW = batch.loads.of_copies(wanted_BW, np.take_along_axis(batch.copies_BX, wanted_BW, axis=1) + 1)
    wanted_load_KBW *= scale_KB1
    change_BWN = to_the_power(rest_KBN[:, :, None, :] + wanted_load_KBW[..., None], squarings).sum(axis=0)
    change_BWN += (others_BN - potential_BN)[:, None, :]
    held_BWN = batch.holds_BXG[number_B[:, None, None], wanted_BW[:, :, None], np.arange(slots) % batch.gpus]
    several_BN = (copies_BN > 1) & (batch.expert_BN < batch.experts)
    change_BWN[held_BWN | ~several_BN[:, None, :]] = np.inf
    return change_BWN
