"""Where a search starts and what it keeps: copies settle one after the other, heaviest first, on the least loaded GPU.

Plain functions: the compiled search compiles them, the one in numpy runs them as they are.

Axes: X experts and one empty slot, G GPUs, C slots of a GPU.
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.search.batch import Batch
from craftc.solvers.search.search_loads import LayerLoads


def settle(slot_GC: np.ndarray, weight_X: np.ndarray) -> None:
    """Rearrange the copies in `slot_GC` (int32, dealt heaviest first over GPUs) in place, by CRAFT's greedy rule.

    weight_X: load of one copy, 0 for the empty slot. If a copy finds no GPU with room that lacks its expert, nothing
    changes: a search untangles what was dealt, too.
    """
    gpus, slots = slot_GC.shape
    empty = len(weight_X) - 1
    further = (slot_GC[:, slots - 1] != empty).sum()
    settled_GC = np.full((gpus, slots), empty, dtype=np.int32)
    load_G, held_G = np.zeros(gpus), np.zeros(gpus, dtype=np.int64)
    for slot in range(slots):
        for dealt in range(gpus):
            expert = slot_GC[dealt, slot]
            if expert == empty:
                continue
            best = -1
            for gpu in range(gpus):
                room = slots if further > 0 else slots - 1
                if held_G[gpu] >= room or (best >= 0 and load_G[gpu] >= load_G[best]):
                    continue
                # Copies of an expert come one after the other: a GPU that holds it got it last.
                if held_G[gpu] == 0 or settled_GC[gpu, held_G[gpu] - 1] != expert:
                    best = gpu
            if best < 0:
                return
            settled_GC[best, held_G[best]] = expert
            held_G[best] += 1
            load_G[best] += weight_X[expert]
            if held_G[best] == slots:
                further -= 1
    slot_GC[:] = settled_GC


def start(loads: LayerLoads, batch: Batch, row: int) -> tuple[np.ndarray, np.ndarray]:
    """`slot_GC` of a row as dealt, and `weight_X` to settle it by."""
    slot_GC = batch.slot_BGC[row, :, : batch.slots_B[row]].copy()
    weight_X = loads.peak_LX[batch.layer_B[row]].copy()
    copies_X = np.zeros(len(weight_X), dtype=np.int64)
    for expert in slot_GC.ravel():
        copies_X[expert] += 1
    for expert in range(len(weight_X)):
        weight_X[expert] /= max(copies_X[expert], 1)
    return slot_GC, weight_X


def keep(batch: Batch, stage: int, row: int, slot_GC: np.ndarray, empty: int) -> None:
    """Write down what a stage found for a row."""
    gpus, slots = slot_GC.shape
    for gpu in range(gpus):
        for slot in range(slots):
            expert = slot_GC[gpu, slot]
            batch.found_TBGC[stage, row, gpu, slot] = -1 if expert == empty else expert
