"""The compiled search: one placement at a time is annealed against representative steps, by swaps and exchanges.

A proposal looks at the fullest GPU of a random step and swaps one of its copies with a copy elsewhere, or gives one of
its experts a further copy in place of another's replica. Its worth follows from the loads of the GPUs that it touches.
Losses are accepted up to a threshold that falls (threshold accepting), and the best placement seen is returned.

All numbers are in single precision and added in a fixed order: the result depends neither on threads nor on how wide a
processor's vectors are.

Axes: K steps, padded to a multiple of 8; X experts and one empty slot (no load), G GPUs, C slots of a GPU, H GPUs that
a proposal touches.
"""

from __future__ import annotations

import math

import numpy as np

from craftc.solvers.search.compiled import compiled
from craftc.solvers.search.search_loads import LANES, SearchLoads
from craftc.solvers.search.search_state import SearchState, search_state

_REBUILD = 32
"""Accepted proposals, besides one for every 8 slots, after which loads are added up afresh, against rounding."""
_TRIES = 16
"""Slots looked at to find somebody's replica."""
_EXCHANGES = 24
"""Proposals, out of 256, that are exchanges if there are replicas."""
_COOLING = 0.02
"""Last threshold / first threshold."""


def anneal(
    loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool, proposals: int, heat: float, seed: int
) -> float:
    """Improve `slot_GC` (int32, the id after all experts in an empty slot) in place; returns its value.

    squarings: the power is 2 ** squarings. falls: the value is the weighted sum over steps of minus the power mean
    (step time); otherwise of 1 / power mean (balancedness). heat: the first threshold, as a part of what one GPU
    contributes to the value.
    """
    random = np.array([seed * 2654435761 + 88172645463325252], dtype=np.uint64)
    useful = proposals if len(slot_GC) > 1 and loads.busy else 0
    value: float = _anneal(loads, search_state(loads, slot_GC), squarings, falls, useful, heat, random)
    return value


@compiled
def _anneal(
    loads: SearchLoads, state: SearchState, squarings: int, falls: bool, proposals: int, heat: float, random: np.ndarray
) -> float:
    slot_GC, experts = state.slot_GC, len(loads.risk_X) - 1
    gpus, slots = slot_GC.shape
    _rebuild(loads, state, squarings)
    value = _slopes(loads, state, 0, squarings, falls)
    best, best_GC = value, slot_GC.copy()
    replicas = state.copies_X[:experts].sum() - experts
    threshold = np.float32(heat * abs(value) / gpus)
    cooling = np.float32(_COOLING ** (256.0 / max(proposals, 256)))
    worth_a_look = 0.0
    accepted = 0
    for proposal in range(proposals):
        if proposal % 256 == 0:
            threshold *= cooling
            part = abs(value) / (loads.busy * 2.0**squarings)
            worth_a_look = part * (math.exp(min(float(threshold) / part, 60.0)) - 1)
        look = loads.busy_K[_below(random, loads.busy)]
        here, there = state.fullest_K[look], _below(random, gpus)
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
            if state.gpu_GK[rival, look] < state.gpu_GK[there, look]:
                there = rival
            other = slot_GC[there, second]
            if here == there:
                continue
            less = state.copy_XK[mine, look] - state.copy_XK[other, look]
            if less <= 0 or state.gpu_GK[there, look] + less >= state.gpu_GK[here, look]:
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
        for number in range(touched):
            gpu = state.touched_H[number]
            for step in range(len(state.sum_K)):
                state.gpu_GK[gpu, step] = state.load_HK[number, step]
                state.power_GK[gpu, step] = state.power_HK[number, step]
        accepted += 1
        if accepted % (_REBUILD + slot_GC.size // 8) == 0:
            _rebuild(loads, state, squarings)
            touched = 0
        value = _slopes(loads, state, touched, squarings, falls)
        if value > best:
            best, best_GC[:] = value, slot_GC
    slot_GC[:] = best_GC
    return best


@compiled
def _rebuild(loads: SearchLoads, state: SearchState, squarings: int) -> None:
    """Add up all loads."""
    experts, steps = len(loads.risk_X) - 1, len(loads.weight_K)
    gpus = len(state.slot_GC)
    for expert in range(experts):
        part = np.float32(1) / np.float32(max(state.copies_X[expert], 1))
        risk = loads.risk_X[expert] * part * part
        for step in range(steps):
            state.copy_XK[expert, step] = loads.load_XK[expert, step] * part + risk
    state.gpu_GK[:] = 0
    for gpu in range(gpus):
        for slot in range(state.slot_GC.shape[1]):
            for step in range(steps):
                state.gpu_GK[gpu, step] += state.copy_XK[state.slot_GC[gpu, slot], step]
    for step in range(steps):
        top = loads.floor_K[step]
        for gpu in range(gpus):
            top = max(top, state.gpu_GK[gpu, step])
        state.unit_K[step] = np.float32(1) / top if top > 0 else np.float32(0)
        state.floor_K[step] = _power(loads.floor_K[step] * state.unit_K[step], squarings)
    for expert in range(experts):
        for step in range(steps):
            state.copy_XK[expert, step] *= state.unit_K[step]
    for gpu in range(gpus):
        for step in range(steps):
            state.gpu_GK[gpu, step] *= state.unit_K[step]
            state.power_GK[gpu, step] = _power(state.gpu_GK[gpu, step], squarings)


@compiled
def _slopes(loads: SearchLoads, state: SearchState, touched: int, squarings: int, falls: bool) -> float:
    """Bring all that depends on GPU loads up to date, of which the touched ones (0: all) changed; returns the value."""
    gpus = len(state.gpu_GK)
    state.sum_K[:] = state.floor_K
    for gpu in range(gpus):
        for step in range(len(state.sum_K)):
            state.sum_K[step] += state.power_GK[gpu, step]
    value = np.float32(0)
    for step in loads.busy_K[: loads.busy]:
        mean = state.sum_K[step]
        for _ in range(squarings):
            mean = np.sqrt(mean)
        mean /= state.unit_K[step]
        term = loads.weight_K[step] * (mean if falls else np.float32(1) / mean)
        state.slope_K[step] = term / (np.float32(2**squarings) * state.sum_K[step])
        value += -term if falls else term
        again = touched == 0
        for other in range(touched):
            again |= state.touched_H[other] == state.fullest_K[step]
        for other in range(gpus if again else touched):
            gpu = other if again else state.touched_H[other]
            if state.gpu_GK[gpu, step] > state.gpu_GK[state.fullest_K[step], step]:
                state.fullest_K[step] = gpu
    return float(value)


@compiled
def _power(load: np.float32, squarings: int) -> np.float32:
    for _ in range(squarings):
        load *= load
    return load


@compiled
def _try_swap(state: SearchState, here: int, there: int, mine: int, other: int) -> int:
    """Loads if two GPUs swapped `mine` and `other`; returns the number of GPUs touched."""
    state.touched_H[0], state.touched_H[1] = here, there
    for step in range(len(state.sum_K)):
        less = state.copy_XK[mine, step] - state.copy_XK[other, step]
        state.load_HK[0, step] = state.gpu_GK[here, step] - less
        state.load_HK[1, step] = state.gpu_GK[there, step] + less
    return 2


@compiled
def _try_exchange(loads: SearchLoads, state: SearchState, there: int, loser: int, winner: int) -> int:
    """Loads if a copy of `winner` replaced the one of `loser` on GPU `there`; returns the number of GPUs touched."""
    f = np.float32
    fewer, more = f(1) / f(state.copies_X[loser] - 1), f(1) / f(state.copies_X[winner] + 1)
    for step in range(len(state.sum_K)):
        load = loads.load_XK[loser, step] * fewer + loads.risk_X[loser] * fewer * fewer
        state.heavier_K[step] = load * state.unit_K[step] - state.copy_XK[loser, step]
        load = loads.load_XK[winner, step] * more + loads.risk_X[winner] * more * more
        state.lighter_K[step] = load * state.unit_K[step] - state.copy_XK[winner, step]
    touched = 0
    for gpu in range(len(state.gpu_GK)):
        if not (state.holds_XG[loser, gpu] or state.holds_XG[winner, gpu]):
            continue
        state.touched_H[touched] = gpu
        losers, winners = f(state.holds_XG[loser, gpu]), f(state.holds_XG[winner, gpu])
        for step in range(len(state.sum_K)):
            load = state.gpu_GK[gpu, step] + winners * state.lighter_K[step]
            if gpu == there:
                load += state.copy_XK[winner, step] + state.lighter_K[step] - state.copy_XK[loser, step]
            else:
                load += losers * state.heavier_K[step]
            state.load_HK[touched, step] = load
        touched += 1
    return touched


@compiled
def _swap(state: SearchState, here: int, there: int, first: int, second: int) -> None:
    mine, other = state.slot_GC[here, first], state.slot_GC[there, second]
    state.slot_GC[here, first], state.slot_GC[there, second] = other, mine
    state.holds_XG[mine, here], state.holds_XG[mine, there] = False, True
    state.holds_XG[other, there], state.holds_XG[other, here] = False, True


@compiled
def _exchange(state: SearchState, there: int, slot: int, loser: int, winner: int) -> None:
    state.slot_GC[there, slot] = winner
    state.holds_XG[loser, there], state.holds_XG[winner, there] = False, True
    state.copies_X[loser] -= 1
    state.copies_X[winner] += 1
    for step in range(len(state.sum_K)):
        state.copy_XK[loser, step] += state.heavier_K[step]
        state.copy_XK[winner, step] += state.lighter_K[step]


@compiled
def _first_order_loss(state: SearchState, touched: int, squarings: int) -> float:
    """What the value loses if the touched GPUs took their new loads, to first order in `sum_K`: never too little."""
    steps = len(state.sum_K)
    state.change_K[:] = 0
    for number, gpu in enumerate(state.touched_H[:touched]):
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
    return float(total)


@compiled
def _loss(loads: SearchLoads, state: SearchState, squarings: int, falls: bool) -> float:
    """What the value loses by the changes that `_first_order_loss` has left in `change_K`."""
    total = np.float32(0)
    for step in loads.busy_K[: loads.busy]:
        before, after = state.sum_K[step], max(state.sum_K[step] + state.change_K[step], np.float32(1e-30))
        for _ in range(squarings):
            before, after = np.sqrt(before), np.sqrt(after)
        unit = state.unit_K[step]
        total += loads.weight_K[step] * ((after - before) / unit if falls else (1 / before - 1 / after) * unit)
    return float(total)


@compiled
def _below(random: np.ndarray, end: int) -> int:
    """A random number in 0..end-1 (xorshift), the next of the sequence in `random`."""
    word = random[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    random[0] = word
    return np.int64(((word >> np.uint64(32)) * np.uint64(end)) >> np.uint64(32))  # type: ignore[return-value]


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
