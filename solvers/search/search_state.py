"""What the compiled search keeps up to date while it changes a placement.

All numbers are in single precision and added in a fixed order: the result depends neither on threads nor on how wide a
processor's vectors are.

Axes: K steps, X experts and one empty slot (no load), G GPUs, C slots of a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from craftc.solvers.search.compiled import compiled
from craftc.solvers.search.search_loads import SearchLoads

UNKNOWN = -1


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
    """Of every step: 1 / load of the fullest GPU when loads were last added up; 0 if there is no load."""
    floor_K: np.ndarray
    """Power of the floor."""
    sum_K: np.ndarray
    """Sum of powers over GPUs, and of the floor."""
    slope_K: np.ndarray
    """What one unit of `sum_K` takes from the value."""
    term_K: np.ndarray
    """What every step adds to a sum."""
    fullest_K: np.ndarray
    """The fullest GPU, -1 where it is not known."""
    change_K: np.ndarray
    """Change of `sum_K` by a proposal."""
    heavier_K: np.ndarray
    """Change of the load of a copy of the expert that loses one, and of the expert that gains one."""
    lighter_K: np.ndarray


@compiled
def search_state(loads: SearchLoads, slot_GC: np.ndarray, squarings: int) -> SearchState:
    """The state of the placement `slot_GC` (int32), which changes with it."""
    (columns, steps), (gpus, slots) = loads.load_XK.shape, slot_GC.shape
    copies_X = np.zeros(columns, dtype=np.int64)
    holds_XG = np.zeros((columns, gpus), dtype=np.bool_)
    for gpu in range(gpus):
        for slot in range(slots):
            copies_X[slot_GC[gpu, slot]] += 1
            holds_XG[slot_GC[gpu, slot], gpu] = True
    row_RK = np.zeros((9, steps), dtype=np.float32)
    state = SearchState(
        slot_GC,
        copies_X,
        holds_XG,
        np.zeros((columns, steps), dtype=np.float32),
        np.zeros((gpus, steps), dtype=np.float32),
        np.zeros((gpus, steps), dtype=np.float32),
        row_RK[0],
        row_RK[1],
        row_RK[2],
        row_RK[3],
        row_RK[4],
        np.zeros(steps, dtype=np.int64),
        row_RK[5],
        row_RK[6],
        row_RK[7],
    )
    add_up(loads, state, squarings)
    return state


@compiled
def add_up(loads: SearchLoads, state: SearchState, squarings: int) -> None:
    """Bring all loads up to date, against rounding."""
    experts, steps = len(loads.risk_X) - 1, len(loads.weight_K)
    gpus, slots = state.slot_GC.shape
    for expert in range(experts):
        part = np.float32(1) / np.float32(max(state.copies_X[expert], 1))
        risk = loads.risk_X[expert] * part * part
        for step in range(steps):
            state.copy_XK[expert, step] = loads.load_XK[expert, step] * part + risk
    state.gpu_GK[:] = 0
    for gpu in range(gpus):
        for slot in range(slots):
            expert = state.slot_GC[gpu, slot]
            for step in range(steps):
                state.gpu_GK[gpu, step] += state.copy_XK[expert, step]
    state.unit_K[:] = loads.floor_K
    for gpu in range(gpus):
        for step in range(steps):
            state.unit_K[step] = max(state.unit_K[step], state.gpu_GK[gpu, step])
    for step in range(steps):
        state.unit_K[step] = np.float32(1) / state.unit_K[step] if state.unit_K[step] > 0 else np.float32(0)
        state.floor_K[step] = power(loads.floor_K[step] * state.unit_K[step], squarings)
    for expert in range(experts):
        for step in range(steps):
            state.copy_XK[expert, step] *= state.unit_K[step]
    state.sum_K[:] = state.floor_K
    for gpu in range(gpus):
        for step in range(steps):
            load = state.gpu_GK[gpu, step] * state.unit_K[step]
            state.gpu_GK[gpu, step] = load
            state.power_GK[gpu, step] = power(load, squarings)
            state.sum_K[step] += state.power_GK[gpu, step]
    state.fullest_K[:] = UNKNOWN


@compiled
def add_powers(state: SearchState) -> None:
    """Bring `sum_K` up to date, against rounding."""
    state.sum_K[:] = state.floor_K
    for gpu in range(len(state.power_GK)):
        for step in range(len(state.sum_K)):
            state.sum_K[step] += state.power_GK[gpu, step]


@compiled
def value_and_slopes(loads: SearchLoads, state: SearchState, squarings: int, falls: bool) -> float:
    """The value of the placement; brings `slope_K` up to date."""
    steepness = np.float32(1) / np.float32(2**squarings)
    for step in range(len(state.sum_K)):
        mean = root(state.sum_K[step], squarings)
        unit = state.unit_K[step]
        weight = loads.weight_K[step] if unit > 0 else np.float32(0)
        rising = weight * unit / mean if mean > 0 else np.float32(0)
        falling = weight * mean / unit if unit > 0 else np.float32(0)
        term = falling if falls else rising
        state.term_K[step] = -term if falls else term
        state.slope_K[step] = term * steepness / state.sum_K[step] if unit > 0 else np.float32(0)
    value = np.float32(0)
    for step in range(len(state.sum_K)):
        value += state.term_K[step]
    return float(value)


@compiled
def fullest(state: SearchState, step: int) -> int:
    """The GPU with the most load in a step."""
    if state.fullest_K[step] == UNKNOWN:
        best = 0
        for gpu in range(1, len(state.gpu_GK)):
            if state.gpu_GK[gpu, step] > state.gpu_GK[best, step]:
                best = gpu
        state.fullest_K[step] = best
    return state.fullest_K[step]


@compiled
def power(load: np.float32, squarings: int) -> np.float32:
    """`load` to the power 2 ** squarings, 2 to 6 of them: without branches, so that vectors can take it."""
    one = np.float32(1)
    load *= load
    load *= load
    third, fourth = np.float32(squarings > 2), np.float32(squarings > 3)
    fifth, sixth = np.float32(squarings > 4), np.float32(squarings > 5)
    load *= load * third + (one - third)
    load *= load * fourth + (one - fourth)
    load *= load * fifth + (one - fifth)
    load *= load * sixth + (one - sixth)
    return load


@compiled
def root(total: np.float32, squarings: int) -> np.float32:
    """The inverse of `power`."""
    total = np.sqrt(np.sqrt(total))
    total = np.sqrt(total) if squarings > 2 else total
    total = np.sqrt(total) if squarings > 3 else total
    total = np.sqrt(total) if squarings > 4 else total
    return np.sqrt(total) if squarings > 5 else total
