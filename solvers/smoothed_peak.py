"""The smooth stand-in for the straggler that the search descends: a power mean of the GPU loads of every step.

The load of the fullest GPU alone says nothing about the runners-up, which are tomorrow's stragglers on steps that were
not seen; the 16th power mean counts them. Per step its weight in balancedness is folded into the loads, so that the
potential is one plain sum: `sum over steps and GPUs of load ** 16`. A placement with less potential is better.

Axes: B problems, K steps, X experts and one empty slot (load 0), G GPUs, C slots of a GPU, N = G x C slots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

_SQUARINGS = 4
_POWER = 2**_SQUARINGS
Float = np.float32


@dataclass(frozen=True, eq=False)
class ExpertLoads:
    """Loads of the experts of a batch of problems, as the search sees them."""

    load_BKX: np.ndarray
    """Load of the whole expert in units of the mean GPU load of its step."""
    risk_BX: np.ndarray
    """What a single copy adds for the spread of its expert's load over steps; c copies add risk / c**2 each."""

    def rows(self, chosen: np.ndarray) -> ExpertLoads:
        return ExpertLoads(self.load_BKX[chosen], self.risk_BX[chosen])

    def of_copies(self, expert_BN: np.ndarray, copies_BN: np.ndarray) -> np.ndarray:
        """`load_BKN` of one copy of each of `expert_BN` if that expert has `copies_BN` copies."""
        copies_BN = np.maximum(copies_BN, 1).astype(Float)
        load_BKN = np.take_along_axis(self.load_BKX, expert_BN[:, None, :], axis=2)
        load_BKN /= copies_BN[:, None, :]
        load_BKN += (np.take_along_axis(self.risk_BX, expert_BN, axis=1) / (copies_BN * copies_BN))[:, None, :]
        return load_BKN


@dataclass(frozen=True, eq=False)
class Potential:
    """Where a batch of placements stands; loads carry the weight of their step."""

    value_B: np.ndarray
    """Sum over steps of 1 / power mean: larger is better, comparable between placements of one problem."""
    scale_BK: np.ndarray
    """Weighted load / load."""
    load_BKN: np.ndarray
    """Weighted load of the copy in every slot."""
    gpu_load_BKG: np.ndarray
    """Weighted load of every GPU."""
    power_BKG: np.ndarray
    """16th power of `gpu_load_BKG`."""

    def rows(self, chosen: np.ndarray) -> Potential:
        return Potential(*(getattr(self, part.name)[chosen] for part in fields(self)))


def to_the_power(load: np.ndarray) -> np.ndarray:
    """`load ** 16`, in place."""
    for _ in range(_SQUARINGS):
        np.multiply(load, load, out=load)
    return load


def copies_of(expert_BN: np.ndarray, experts: int) -> np.ndarray:
    """`copies_BX` int64 of every expert, and of the empty slot behind them."""
    batch = len(expert_BN)
    flat = expert_BN + (np.arange(batch) * (experts + 1))[:, None]
    return np.bincount(flat.ravel(), minlength=batch * (experts + 1)).reshape(batch, experts + 1)


def potential(loads: ExpertLoads, expert_BN: np.ndarray, copies_BX: np.ndarray, gpus: int) -> Potential:
    """The potential of a batch of placements and everything the moves are valued with."""
    load_BKN = loads.of_copies(expert_BN, np.take_along_axis(copies_BX, expert_BN, axis=1))
    gpu_load_BKG = load_BKN.reshape(*load_BKN.shape[:2], gpus, -1).sum(axis=3)
    peak_BK = gpu_load_BKG.max(axis=2)
    busy_BK = peak_BK > 0
    unit_BK = np.where(busy_BK, 1 / np.where(busy_BK, peak_BK, 1), 0).astype(Float)
    sum_BK = to_the_power(gpu_load_BKG * unit_BK[:, :, None]).sum(axis=2) + ~busy_BK
    value_BK = unit_BK * sum_BK ** Float(-1 / _POWER)
    # The slope of 1 / power mean in a GPU's 16th power is value / sum / 16: its 16th root goes into the loads.
    scale_BK = unit_BK * (value_BK / sum_BK) ** Float(1 / _POWER)
    load_BKN *= scale_BK[:, :, None]
    gpu_load_BKG *= scale_BK[:, :, None]
    return Potential(value_BK.sum(axis=1), scale_BK, load_BKN, gpu_load_BKG, to_the_power(gpu_load_BKG.copy()))
