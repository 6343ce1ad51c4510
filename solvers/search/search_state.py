"""What the compiled search keeps up to date while it changes a placement.

Axes: K steps, X experts and one empty slot (no load), G GPUs, C slots of a GPU, H GPUs that a proposal touches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from craftc.solvers.search.search_loads import SearchLoads


class SearchState(NamedTuple):
    """A placement and its loads; `copy`, `gpu` and `power` are in units of each step's fullest GPU."""

    slot_GC: np.ndarray
    copies_X: np.ndarray
    holds_XG: np.ndarray
    copy_XK: np.ndarray
    """Load of one copy."""
    gpu_GK: np.ndarray
    power_GK: np.ndarray
    unit_K: np.ndarray
    floor_K: np.ndarray
    """Power of the floor."""
    sum_K: np.ndarray
    """Sum of powers over GPUs, and of the floor."""
    slope_K: np.ndarray
    """What one unit of `sum_K` takes from the value."""
    fullest_K: np.ndarray
    touched_H: np.ndarray
    """GPUs that a proposal touches, and what their loads and powers would be."""
    load_HK: np.ndarray
    power_HK: np.ndarray
    change_K: np.ndarray
    """Change of `sum_K`, and what it would take from the value."""
    loss_K: np.ndarray
    heavier_K: np.ndarray
    """Change of the load of a copy of the expert that loses one, and of the expert that gains one."""
    lighter_K: np.ndarray


def search_state(loads: SearchLoads, slot_GC: np.ndarray) -> SearchState:
    """The state of the placement `slot_GC` (int32), whose loads are still to be added up."""
    (columns, steps), gpus = loads.load_XK.shape, len(slot_GC)
    holds_XG = np.zeros((columns, gpus), dtype=np.bool_)
    holds_XG[slot_GC, np.arange(gpus)[:, None]] = True

    def zeros(*rows: int) -> np.ndarray:
        return np.zeros((*rows, steps), dtype=np.float32)

    return SearchState(
        slot_GC=slot_GC,
        copies_X=np.bincount(slot_GC.ravel(), minlength=columns),
        holds_XG=holds_XG,
        copy_XK=zeros(columns),
        gpu_GK=zeros(gpus),
        power_GK=zeros(gpus),
        unit_K=zeros(),
        floor_K=zeros(),
        sum_K=zeros(),
        slope_K=zeros(),
        fullest_K=np.zeros(steps, dtype=np.int64),
        touched_H=np.zeros(gpus, dtype=np.int64),
        load_HK=zeros(gpus),
        power_HK=zeros(gpus),
        change_K=zeros(),
        loss_K=zeros(),
        heavier_K=zeros(),
        lighter_K=zeros(),
    )
