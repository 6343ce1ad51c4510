"""The compiled search: one placement at a time is annealed against representative steps, by swaps and exchanges.

A proposal looks at the fullest GPU of a random step and swaps one of its copies with a copy elsewhere, or gives one of
its experts a further copy in place of somebody else's replica. What a proposal is worth follows from the loads of the
GPUs that it touches; nothing else is computed. Proposals that get worse are accepted up to a threshold that falls
(threshold accepting), and the best placement seen is returned.

All numbers are single precision and are added in a fixed order: the result depends neither on threads nor on how wide a
processor's vectors are. Only this file imports numba.

Axes: K steps, padded to a multiple of 8; X experts and one empty slot (no load), G GPUs, C slots of a GPU, H GPUs that
a proposal touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from craftc.solvers.search.search_loads import LANES, SearchLoads

Function = TypeVar("Function", bound=Callable[..., Any])
_REBUILD = 32
"""Accepted proposals after which loads are added up afresh, against rounding."""
_TRIES = 16
"""Slots looked at to find somebody's replica."""
_EXCHANGES = 24
"""Proposals, out of 256, that are exchanges if there are replicas."""
_COOLING = 0.02
"""Last threshold / first threshold."""


def _compiled(function: Function) -> Function:
    """`function` compiled at its first call; kept in a cache folder if there is one that can be written."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder for its cache, neither here nor in the user's cache folder
        compiled = numba.njit(**options)(function)
    return compiled


class _State(NamedTuple):
    """A placement and its loads; `copy`, `gpu` and `power` are in units of each step's fullest GPU."""

    slot_GC: np.ndarray
    copies_X: np.ndarray
    holds_XG: np.ndarray
    where_XG: np.ndarray
    """The GPUs that hold an expert: the first `copies_X` of a row."""
    copy_XK: np.ndarray
    """Load of one copy."""
    gpu_GK: np.ndarray
    power_GK: np.ndarray
    floor_K: np.ndarray
    """Power of the floor."""
    sum_K: np.ndarray
    """Sum of powers over GPUs, and of the floor."""
    slope_K: np.ndarray
    """What one unit of `sum_K` takes from the value."""
    unit_K: np.ndarray
    fullest_K: np.ndarray
    touched_H: np.ndarray
    """GPUs that a proposal touches, and what their loads and powers would be."""
    load_HK: np.ndarray
    power_HK: np.ndarray
    change_K: np.ndarray
    loss_K: np.ndarray
    heavier_K: np.ndarray
    lighter_K: np.ndarray


@_compiled
def anneal(
    loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool, proposals: int, heat: float, seed: int
) -> float:  # pragma: no cover
    """Improve `slot_GC` (int32, the id after all experts in an empty slot) in place; returns its value.

    squarings: the power is 2 ** squarings. falls: the value is the weighted sum over steps of minus the power mean
    (step time); otherwise of 1 / power mean (balancedness). heat: the first threshold, as a part of what one GPU
    contributes to the value.
    """
    experts, steps = len(loads.risk_X) - 1, len(loads.weight_K)
    gpus, slots = slot_GC.shape
    state = _start(slot_GC, experts, steps)
    value = _rebuild(loads, state, squarings, falls)
    best, best_GC = value, slot_GC.copy()
    replicas = state.copies_X[:experts].sum() - experts
    random = np.array([np.uint64(seed) * np.uint64(2654435761) + np.uint64(88172645463325252)])
    threshold = np.float32(heat * abs(value) / gpus)
    cooling = np.float32(_COOLING ** (256.0 / max(proposals, 256)))
    worth_a_look = 0.0
    accepted = 0
    for proposal in range(proposals if loads.busy > 0 and gpus > 1 else 0):
        if proposal % 256 == 0:
            threshold *= cooling
            part = abs(value) / (loads.busy * 2.0**squarings)
            worth_a_look = part * (math.exp(min(threshold / part, 60.0)) - 1)
        step = loads.busy_K[_below(random, loads.busy)]
        here, there = state.fullest_K[step], _below(random, gpus)
        first, second = _below(random, slots), _below(random, slots)
        mine = slot_GC[here, first]
        exchanging = replicas > 0 and _below(random, 256) < _EXCHANGES
        if exchanging:
            if _below(random, 2) == 0:  # or an expert from anywhere: small problems get stuck without
                mine = _below(random, experts)
            for _ in range(_TRIES):
                other = slot_GC[there, second]
                if other < experts and state.copies_X[other] > 1:
                    break
                there, second = _below(random, gpus), _below(random, slots)
            other = slot_GC[there, second]
            if mine == experts or other == experts or state.copies_X[other] < 2 or state.holds_XG[mine, there]:
                continue
            touched = _try_exchange(loads, state, there, other, mine)
        else:
            rival = _below(random, gpus)
            if state.gpu_GK[rival, step] < state.gpu_GK[there, step]:
                there = rival
            other = slot_GC[there, second]
            if here == there:
                continue
            less = state.copy_XK[mine, step] - state.copy_XK[other, step]
            if less <= 0 or state.gpu_GK[there, step] + less >= state.gpu_GK[here, step]:
                continue
            if state.holds_XG[mine, there] or state.holds_XG[other, here]:
                continue
            touched = _try_swap(state, here, there, mine, other)
        loss = _first_order_loss(state, touched, squarings)
        if loss > threshold and (loss > worth_a_look or _loss(loads, state, squarings, falls) > threshold):
            continue
        if exchanging:
            _exchange(state, there, second, other, mine)
        else:
            _swap(state, here, there, first, second)
        _take(state, touched)
        accepted += 1
        if accepted % _REBUILD == 0:
            value = _rebuild(loads, state, squarings, falls)
        else:
            value = _slopes(loads, state, squarings, falls)
        if value > best:
            best = value
            best_GC[:] = slot_GC
    slot_GC[:] = best_GC
    return best


@_compiled
def _start(slot_GC: np.ndarray, experts: int, steps: int) -> _State:  # pragma: no cover
    gpus, slots = slot_GC.shape
    copies_X = np.zeros(experts + 1, np.int64)
    holds_XG = np.zeros((experts + 1, gpus), np.bool_)
    where_XG = np.zeros((experts + 1, gpus), np.int32)
    for gpu in range(gpus):
        for slot in range(slots):
            expert = slot_GC[gpu, slot]
            where_XG[expert, copies_X[expert]] = gpu
            copies_X[expert] += 1
            holds_XG[expert, gpu] = True
    f = np.float32
    return _State(
        slot_GC,
        copies_X,
        holds_XG,
        where_XG,
        np.zeros((experts + 1, steps), f),
        np.zeros((gpus, steps), f),
        np.zeros((gpus, steps), f),
        np.zeros(steps, f),
        np.zeros(steps, f),
        np.zeros(steps, f),
        np.zeros(steps, f),
        np.zeros(steps, np.int64),
        np.zeros(2 * gpus + 1, np.int64),
        np.zeros((2 * gpus + 1, steps), f),
        np.zeros((2 * gpus + 1, steps), f),
        np.zeros(steps, f),
        np.zeros(steps, f),
        np.zeros(steps, f),
        np.zeros(steps, f),
    )


@_compiled
def _rebuild(loads: SearchLoads, state: _State, squarings: int, falls: bool) -> float:  # pragma: no cover
    """Add up all loads; returns the value."""
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
    for step in range(steps):
        top = loads.floor_K[step]
        for gpu in range(gpus):
            top = max(top, state.gpu_GK[gpu, step])
        state.unit_K[step] = np.float32(1) / top if top > 0 else np.float32(0)
        state.floor_K[step] = loads.floor_K[step] * state.unit_K[step]
    _raise(state.floor_K, squarings)
    for expert in range(experts):
        for step in range(steps):
            state.copy_XK[expert, step] *= state.unit_K[step]
    for gpu in range(gpus):
        for step in range(steps):
            state.gpu_GK[gpu, step] *= state.unit_K[step]
            state.power_GK[gpu, step] = state.gpu_GK[gpu, step]
        _raise(state.power_GK[gpu], squarings)
    return _slopes(loads, state, squarings, falls)


@_compiled
def _slopes(loads: SearchLoads, state: _State, squarings: int, falls: bool) -> float:  # pragma: no cover
    """Bring `sum_K`, `slope_K` and `fullest_K` up to date; returns the value."""
    gpus = len(state.gpu_GK)
    state.sum_K[:] = state.floor_K
    for gpu in range(gpus):
        for step in range(len(state.sum_K)):
            state.sum_K[step] += state.power_GK[gpu, step]
    value = np.float32(0)
    for number in range(loads.busy):
        step = loads.busy_K[number]
        mean = state.sum_K[step]
        for _ in range(squarings):
            mean = np.sqrt(mean)
        mean /= state.unit_K[step]
        term = loads.weight_K[step] * (mean if falls else np.float32(1) / mean)
        state.slope_K[step] = term / (np.float32(2**squarings) * state.sum_K[step])
        value += -term if falls else term
        fullest = state.fullest_K[step]
        for gpu in range(gpus):
            if state.gpu_GK[gpu, step] > state.gpu_GK[fullest, step]:
                fullest = gpu
        state.fullest_K[step] = fullest
    return value


@_compiled
def _raise(value_K: np.ndarray, squarings: int) -> None:  # pragma: no cover
    for _ in range(squarings):
        for step in range(len(value_K)):
            value_K[step] *= value_K[step]


@_compiled
def _try_swap(state: _State, here: int, there: int, mine: int, other: int) -> int:  # pragma: no cover
    """Loads if two GPUs swapped `mine` and `other`; returns the number of GPUs touched."""
    state.touched_H[0], state.touched_H[1] = here, there
    for step in range(len(state.sum_K)):
        less = state.copy_XK[mine, step] - state.copy_XK[other, step]
        state.load_HK[0, step] = state.gpu_GK[here, step] - less
        state.load_HK[1, step] = state.gpu_GK[there, step] + less
    return 2


@_compiled
def _swap(state: _State, here: int, there: int, first: int, second: int) -> None:  # pragma: no cover
    mine, other = state.slot_GC[here, first], state.slot_GC[there, second]
    state.slot_GC[here, first], state.slot_GC[there, second] = other, mine
    for expert, old, new in ((mine, here, there), (other, there, here)):
        state.holds_XG[expert, old], state.holds_XG[expert, new] = False, True
        for number in range(state.copies_X[expert]):
            if state.where_XG[expert, number] == old:
                state.where_XG[expert, number] = new


@_compiled
def _try_exchange(loads: SearchLoads, state: _State, there: int, loser: int, winner: int) -> int:  # pragma: no cover
    """Loads if a copy of `winner` replaced the one of `loser` on GPU `there`; returns the number of GPUs touched."""
    steps = len(state.sum_K)
    f = np.float32
    fewer, more = f(1) / f(state.copies_X[loser] - 1), f(1) / f(state.copies_X[winner] + 1)
    for step in range(steps):
        unit = state.unit_K[step]
        one = (loads.load_XK[loser, step] * fewer + loads.risk_X[loser] * fewer * fewer) * unit
        state.heavier_K[step] = one - state.copy_XK[loser, step]
        one = (loads.load_XK[winner, step] * more + loads.risk_X[winner] * more * more) * unit
        state.lighter_K[step] = one - state.copy_XK[winner, step]
        change = state.copy_XK[winner, step] + state.lighter_K[step] - state.copy_XK[loser, step]
        state.load_HK[0, step] = state.gpu_GK[there, step] + change
    state.touched_H[0] = there
    touched = 1
    for number in range(state.copies_X[winner]):
        gpu = state.where_XG[winner, number]
        state.touched_H[touched] = gpu
        both = f(1) if state.holds_XG[loser, gpu] else f(0)
        for step in range(steps):
            change = state.lighter_K[step] + both * state.heavier_K[step]
            state.load_HK[touched, step] = state.gpu_GK[gpu, step] + change
        touched += 1
    for number in range(state.copies_X[loser]):
        gpu = state.where_XG[loser, number]
        if gpu == there or state.holds_XG[winner, gpu]:
            continue
        state.touched_H[touched] = gpu
        for step in range(steps):
            state.load_HK[touched, step] = state.gpu_GK[gpu, step] + state.heavier_K[step]
        touched += 1
    return touched


@_compiled
def _exchange(state: _State, there: int, slot: int, loser: int, winner: int) -> None:  # pragma: no cover
    state.slot_GC[there, slot] = winner
    for step in range(len(state.sum_K)):
        state.copy_XK[loser, step] += state.heavier_K[step]
        state.copy_XK[winner, step] += state.lighter_K[step]
    state.holds_XG[loser, there], state.holds_XG[winner, there] = False, True
    state.copies_X[loser] -= 1
    last = state.where_XG[loser, state.copies_X[loser]]
    for number in range(state.copies_X[loser]):
        if state.where_XG[loser, number] == there:
            state.where_XG[loser, number] = last
    state.where_XG[winner, state.copies_X[winner]] = there
    state.copies_X[winner] += 1


@_compiled
def _first_order_loss(state: _State, touched: int, squarings: int) -> float:  # pragma: no cover
    """What the value loses if the touched GPUs took their new loads, to first order in `sum_K`: never too little."""
    steps = len(state.sum_K)
    state.change_K[:] = 0
    for number in range(touched):
        gpu = state.touched_H[number]
        for step in range(steps):
            power = state.load_HK[number, step]
            for _ in range(squarings):
                power *= power
            state.power_HK[number, step] = power
            state.change_K[step] += power - state.power_GK[gpu, step]
    for step in range(steps):
        state.loss_K[step] = state.change_K[step] * state.slope_K[step]
    for block in range(LANES, steps, LANES):
        for lane in range(LANES):
            state.loss_K[lane] += state.loss_K[block + lane]
    total = np.float32(0)
    for lane in range(LANES):
        total += state.loss_K[lane]
    return total


@_compiled
def _loss(loads: SearchLoads, state: _State, squarings: int, falls: bool) -> float:  # pragma: no cover
    """What the value loses by the changes that `_first_order_loss` has left in `change_K`."""
    total = np.float32(0)
    for number in range(loads.busy):
        step = loads.busy_K[number]
        before, after = state.sum_K[step], max(state.sum_K[step] + state.change_K[step], np.float32(1e-30))
        for _ in range(squarings):
            before, after = np.sqrt(before), np.sqrt(after)
        if falls:
            total += loads.weight_K[step] * (after - before) / state.unit_K[step]
        else:
            total += loads.weight_K[step] * (1 / before - 1 / after) * state.unit_K[step]
    return total


@_compiled
def _take(state: _State, touched: int) -> None:  # pragma: no cover
    for number in range(touched):
        gpu = state.touched_H[number]
        for step in range(len(state.sum_K)):
            state.gpu_GK[gpu, step] = state.load_HK[number, step]
            state.power_GK[gpu, step] = state.power_HK[number, step]


@_compiled
def _below(random: np.ndarray, end: int) -> int:  # pragma: no cover
    """A random number in 0..end-1 (xorshift), the next of the sequence in `random`."""
    word = random[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    random[0] = word
    return np.int64(((word >> np.uint64(32)) * np.uint64(end)) >> np.uint64(32))


def warm_up() -> None:
    """Compile, or load what was compiled before. Raises whatever numba raises if it cannot."""
    loads = SearchLoads(
        np.ones((3, LANES), np.float32),
        np.zeros(3, np.float32),
        np.ones(LANES, np.float32),
        np.zeros(LANES, np.float32),
        np.zeros(LANES, np.int64),
        1,
    )
    anneal(loads, np.array([[0], [1]], np.int32), 3, False, 1, 0.1, 0)
