"""A smooth stand-in for the straggler's load, which the search lowers: a power mean of the GPU loads of every step.

The load of the fullest GPU alone says nothing about the next fullest ones, which may be the stragglers in steps not
seen; a power mean counts them. The weight of a step in balancedness is folded into its loads, so the potential is a
plain sum of `load ** power` over steps and GPUs. The placement with less potential is better.

Axes: K steps, B problems, X experts and one empty slot (no load), G GPUs, C slots of a GPU, N = C x G slots, slot n on
GPU n % G. Steps come first: sums over them then run through memory in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Float = np.float32


def squarings_for(gpus: int) -> int:
    """How often a load is squared: the power grows with log(gpus), so that the power mean of similar loads stays close
    to their peak, within the range of single precision."""
    return min(5, max(3, round(math.log2(16 / 3 * math.log2(max(gpus, 2))))))


@dataclass(frozen=True, eq=False)
class ExpertLoads:
    """Loads of the experts of a batch of problems, as the search sees them."""

    load_KBX: np.ndarray
    """Load of the whole expert in units of the mean GPU load of its step."""
    risk_BX: np.ndarray
    """What a single copy adds for the spread of its expert's load; each of c copies adds risk / c**2."""
    weight_KB: np.ndarray
    """Weight of every step in balancedness."""

    def rows(self, chosen_B: np.ndarray) -> ExpertLoads:
        # `take` keeps rows in memory order, which `[:, chosen_B]` does not.
        return ExpertLoads(
            self.load_KBX.take(chosen_B, axis=1), self.risk_BX[chosen_B], self.weight_KB.take(chosen_B, axis=1)
        )

    def of_copies(self, expert_BN: np.ndarray, copies_BN: np.ndarray) -> np.ndarray:
        """`load_KBN` of one copy of each of `expert_BN` if that expert has `copies_BN` copies."""
        steps, batch, experts = self.load_KBX.shape
        flat_BN = expert_BN + (np.arange(batch) * experts)[:, None]
        part_BN = 1 / np.maximum(copies_BN, 1).astype(Float)
        load_KBN = self.load_KBX.reshape(steps, -1).take(flat_BN, axis=1)
        load_KBN *= part_BN
        load_KBN += self.risk_BX.ravel().take(flat_BN) * (part_BN * part_BN)
        return load_KBN


@dataclass(frozen=True, eq=False)
class Standing:
    """How good the placements of a batch are; GPU loads carry the weight of their step."""

    value_B: np.ndarray
    """Weighted sum over steps of 1 / power mean: larger is better, comparable between placements of one problem."""
    scale_KB: np.ndarray
    """Weighted load / load."""
    gpu_load_KBG: np.ndarray
    """Weighted load of every GPU."""
    power_KBG: np.ndarray
    """That load to the power."""
    potential_BG: np.ndarray
    """Sum of powers over steps."""


def standing(load_KBN: np.ndarray, weight_KB: np.ndarray, gpus: int, squarings: int) -> Standing:
    """How good placements with the slot loads `load_KBN` are."""
    steps, batch, _ = load_KBN.shape
    gpu_load_KBG = load_KBN.reshape(steps, batch, -1, gpus).sum(axis=2)
    peak_KB = gpu_load_KBG.max(axis=2)
    busy_KB = peak_KB > 0
    unit_KB = np.where(busy_KB, 1 / np.where(busy_KB, peak_KB, 1), 0).astype(Float)
    sum_KB = to_the_power(gpu_load_KBG * unit_KB[:, :, None], squarings).sum(axis=2) + ~busy_KB
    value_KB = weight_KB * unit_KB / root(sum_KB, squarings)
    # The slope of weight / power mean in a GPU's power is value / sum / power: its root goes into the loads.
    scale_KB = unit_KB * root(value_KB / sum_KB, squarings)
    gpu_load_KBG *= scale_KB[:, :, None]
    power_KBG = to_the_power(gpu_load_KBG.copy(), squarings)
    return Standing(value_KB.sum(axis=0), scale_KB, gpu_load_KBG, power_KBG, power_KBG.sum(axis=0))


def to_the_power(load: np.ndarray, squarings: int) -> np.ndarray:
    """`load ** (2 ** squarings)`, in place."""
    for _ in range(squarings):
        np.multiply(load, load, out=load)
    return load


def root(value: np.ndarray, squarings: int) -> np.ndarray:
    """The inverse of `to_the_power`: square roots round the same at every position in an array, `**` does not."""
    for _ in range(squarings):
        value = np.sqrt(value)
    return value


def copies_of(expert_BN: np.ndarray, columns: int) -> np.ndarray:
    """`copies_BX` int64: how often each of the ids 0..columns-1 occurs in a row."""
    batch = len(expert_BN)
    flat = (expert_BN + (np.arange(batch) * columns)[:, None]).ravel()
    return np.bincount(flat, minlength=batch * columns).reshape(batch, columns)


def sum_by_expert(value_BN: np.ndarray, expert_BN: np.ndarray, columns: int) -> np.ndarray:
    """`total_BX`: the sum of a value over the slots that hold each of the ids 0..columns-1."""
    batch = len(expert_BN)
    flat = (expert_BN + (np.arange(batch) * columns)[:, None]).ravel()
    total = np.bincount(flat, weights=value_BN.ravel(), minlength=batch * columns)
    return total.reshape(batch, columns).astype(value_BN.dtype)
