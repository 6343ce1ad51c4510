"""What a search sees of layers: the loads of their representative steps, expert by expert.

Axes: L layers, K steps, padded to a multiple of 8; E experts, X experts and one empty slot (no load).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from craftc.solvers.search.step_compression import RepresentativeSteps

LANES = 8
"""Steps are padded to a multiple of this, which suits every processor's vectors."""


class SearchLoads(NamedTuple):
    """The loads of one layer; a tuple, which compiled code can take."""

    load_XK: np.ndarray
    """Load of every expert, in units of the mean GPU load of the step, float32."""
    risk_X: np.ndarray
    """What a single copy adds for the spread of its expert's load; each of c copies adds risk / c**2; float32."""
    weight_K: np.ndarray
    """What a step counts, at least 0, float32."""
    floor_K: np.ndarray
    """Load below which no GPU gets faster, at least 0, float32."""
    busy_K: np.ndarray
    """The steps that count and have tokens, int64, then padding."""
    busy: int
    """Number of these steps."""


@dataclass(frozen=True)
class Goal:
    """What a search raises: in every step, a power mean of the GPU loads stands for the fullest GPU's.

    The load of the fullest GPU alone says nothing about the next fullest ones, which may be the stragglers in steps not
    seen; a power mean counts them.
    """

    step_time: bool = False
    """Whether the power mean is to be small on average, rather than its inverse large."""
    squarings: int = 5
    """The exponent of the power mean is 2 ** squarings."""


def squarings_for(gpus: int) -> int:
    """The exponent grows with log(gpus), so that the power mean of similar loads stays close to their peak."""
    return min(5, max(3, round(math.log2(16 / 3 * math.log2(max(gpus, 2))))))


class LayerLoads(NamedTuple):
    """`SearchLoads` of all layers; a tuple, which compiled code can take."""

    load_LXK: np.ndarray
    risk_LX: np.ndarray
    weight_LK: np.ndarray
    floor_LK: np.ndarray
    """Load below which no GPU gets faster, for each of its slots."""
    busy_LK: np.ndarray
    busy_L: np.ndarray
    peak_LX: np.ndarray
    """By which copies are first handed out and settled, float64."""


def loads_of_layers(steps: RepresentativeSteps) -> LayerLoads:
    """Padded, with an empty slot."""
    layers, kept, experts = steps.load_LKE.shape
    padded = -(-kept // LANES) * LANES
    load_LXK = np.zeros((layers, experts + 1, padded), dtype=np.float32)
    load_LXK[:, :experts, :kept] = steps.load_LKE.transpose(0, 2, 1)
    risk_LX = np.pad(steps.risk_LE, ((0, 0), (0, 1))).astype(np.float32)
    weight_LK = np.pad(steps.weight_LK, ((0, 0), (0, padded - kept))).astype(np.float32)
    floor_LK = np.pad(steps.floor_LK, ((0, 0), (0, padded - kept))).astype(np.float32)
    busy_LK = (weight_LK > 0) & load_LXK.any(axis=1)
    order_LK = np.argsort(~busy_LK, axis=1, kind="stable")
    peak_LX = np.pad(steps.peak_LE, ((0, 0), (0, 1)))
    return LayerLoads(load_LXK, risk_LX, weight_LK, floor_LK, order_LK, busy_LK.sum(axis=1), peak_LX)


def loads_of_layer(loads: LayerLoads, layer: int, slots: int) -> SearchLoads:
    """The loads of one layer for a placement with `slots` slots on the fullest GPU."""
    return SearchLoads(
        loads.load_LXK[layer],
        loads.risk_LX[layer],
        loads.weight_LK[layer],
        loads.floor_LK[layer] * np.float32(slots),
        loads.busy_LK[layer],
        loads.busy_L[layer],
    )
