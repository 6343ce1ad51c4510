"""The compiled search: one placement at a time is annealed against representative steps, by swaps and exchanges.

A proposal looks at the fullest GPU of a random step and swaps one of its copies with a lighter one elsewhere, or gives
one of its experts a further copy in place of another's replica. Its worth follows from the loads of the GPUs that it
touches. Losses are accepted up to a threshold that falls (threshold accepting), and the best placement seen is kept.

Axes: K steps, padded to a multiple of 8; X experts and one empty slot (no load), G GPUs, C slots of a GPU; L layers,
R placements, T stages.
"""

from __future__ import annotations

import math

import numpy as np

from craftc.solvers.search.batch import Batch
from craftc.solvers.search.compiled import compiled
from craftc.solvers.search.random_words import next_word, part_of
from craftc.solvers.search.search_loads import LANES, LayerLoads, SearchLoads, loads_of_layer
from craftc.solvers.search.search_state import (
    UNKNOWN,
    SearchState,
    add_powers,
    add_up,
    fullest,
    power,
    root,
    search_state,
    value_and_slopes,
)
from craftc.solvers.search.settling import keep, settle, start

_AFRESH = 16
"""Accepted proposals after which powers are added up afresh, against rounding; and loads after as many times more, and
one for every 2 slots."""
_TRIES = 16
"""Slots looked at to find somebody's replica."""
_PAIRS = 32
"""Pairs of slots looked at to find two copies to swap."""
_EXCHANGES = 32
"""Proposals, out of 256, that are exchanges if there are replicas."""
_COOLING = 0.02
"""Last threshold / first threshold."""

_loads_of_layer, _start, _settle, _keep = compiled(loads_of_layer), compiled(start), compiled(settle), compiled(keep)


@compiled
def anneal_rows(loads: LayerLoads, batch: Batch, first: int, every: int) -> None:
    """Anneal some placements of a batch, stage by stage, and write down what each stage found."""
    for row in range(first, len(batch.layer_B), every):
        layer = batch.layer_B[row]
        slot_GC, weight_X = _start(loads, batch, row)
        _settle(slot_GC, weight_X)
        own = _loads_of_layer(loads, layer, slot_GC.shape[1])
        for stage in range(len(batch.heat_T)):
            squarings, proposals = batch.squarings_T[stage], batch.proposals_TB[stage, row]
            anneal(own, slot_GC, squarings, batch.falls, proposals, batch.heat_T[stage], batch.seed + layer)
            _keep(batch, stage, row, slot_GC, len(own.risk_X) - 1)


@compiled
def anneal(
    loads: SearchLoads, slot_GC: np.ndarray, squarings: int, falls: bool, proposals: int, heat: float, seed: int
) -> float:
    """Improve `slot_GC` (int32, the id after all experts in an empty slot) in place; returns its value.

    squarings: the power is 2 ** squarings, 2 to 6. falls: the value is the weighted sum over steps of minus the power
    mean (step time); otherwise of 1 / power mean (balancedness). heat: the first threshold, as a part of what one GPU
    contributes to the value.
    """
    state = search_state(loads, slot_GC, squarings)
    gpus, slots = slot_GC.shape
    experts = len(loads.risk_X) - 1
    value = value_and_slopes(loads, state, squarings, falls)
    if gpus == 1 or loads.busy == 0:
        return value
    best, best_GC = value, slot_GC.copy()
    random = np.empty(1, dtype=np.uint64)
    random[0] = np.uint64(seed) * np.uint64(2654435761) + np.uint64(88172645463325252)
    replicas = state.copies_X[:experts].sum() - experts
    threshold = np.float32(heat * abs(value) / gpus)
    cooling = np.float32(_COOLING ** (256.0 / max(proposals, 256)))
    accepted, worth_a_look = 0, 0.0
    for proposal in range(proposals):
        if proposal % 256 == 0:
            threshold *= cooling
            part = abs(value) / (loads.busy * 2.0**squarings)
            worth_a_look = part * (math.exp(min(float(threshold) / part, 60.0)) - 1)
        word, other_word = next_word(random), next_word(random)
        look = loads.busy_K[part_of(word, 0, loads.busy)]
        here, first, second = fullest(state, look), part_of(word, 1, slots), part_of(word, 2, slots)
        there, rival = part_of(other_word, 0, gpus), part_of(other_word, 1, gpus)
        exchanging = replicas > 0 and part_of(word, 3, 256) < _EXCHANGES
        if exchanging:
            anywhere = part_of(other_word, 2, 2) == 0  # an expert from anywhere: small problems get stuck without
            mine = part_of(other_word, 3, experts) if anywhere else slot_GC[here, first]
            there, second = _find_replica(state, there, second, random)
            other = slot_GC[there, second]
            if mine == experts or other == experts or state.copies_X[other] < 2 or state.holds_XG[mine, there]:
                continue
            copies = np.float32(state.copies_X[mine])
            more = state.copy_XK[mine, look] * copies / (copies + 1) - state.copy_XK[other, look]
            if not anywhere and state.gpu_GK[there, look] + more >= state.gpu_GK[here, look]:
                continue
            _try_exchange(loads, state, there, other, mine, squarings)
        else:
            if state.gpu_GK[rival, look] < state.gpu_GK[there, look]:
                there = rival
            first, second = _find_pair(state, here, there, look, first, second)
            if first < 0:
                continue
            mine, other = slot_GC[here, first], slot_GC[there, second]
            _try_swap(state, here, there, mine, other, squarings)
        loss = _first_order_loss(state)
        if loss > threshold and (loss > worth_a_look or _loss(loads, state, squarings, falls) > threshold):
            continue
        if exchanging:
            _exchange(state, there, second, mine, squarings)
        else:
            _swap(state, here, there, first, second, squarings)
        accepted += 1
        if accepted % (_AFRESH * _AFRESH + slot_GC.size // 2) == 0:
            add_up(loads, state, squarings)
        elif accepted % _AFRESH == 0:
            add_powers(state)
        value = value_and_slopes(loads, state, squarings, falls)
        if value > best:  # or so it seems: differences of large powers leave little of a small one
            add_powers(state)
            value = value_and_slopes(loads, state, squarings, falls)
        if value > best:
            best, best_GC[:] = value, slot_GC
    slot_GC[:] = best_GC
    return best


@compiled
def _find_pair(state: SearchState, here: int, there: int, look: int, first: int, second: int) -> tuple[int, int]:
    """Slots of two GPUs, from `first` and `second` on, where the copy on `here` is heavier, by less than the GPUs
    differ; -1 if a few pairs have none."""
    slots = state.slot_GC.shape[1]
    most = state.gpu_GK[here, look] - state.gpu_GK[there, look]
    for _ in range(min(slots * slots, _PAIRS)):
        mine, other = state.slot_GC[here, first], state.slot_GC[there, second]
        less = state.copy_XK[mine, look] - state.copy_XK[other, look]
        if 0 < less < most and not (state.holds_XG[mine, there] or state.holds_XG[other, here]):
            return first, second
        second += 1
        if second == slots:
            second, first = 0, first + 1
            if first == slots:
                first = 0
    return -1, -1


@compiled
def _find_replica(state: SearchState, gpu: int, slot: int, random: np.ndarray) -> tuple[int, int]:
    """A slot with one of several copies of an expert, or any if some tries find none."""
    gpus, slots = state.slot_GC.shape
    for _ in range(_TRIES):
        if state.copies_X[state.slot_GC[gpu, slot]] > 1 and state.slot_GC[gpu, slot] + 1 < len(state.copies_X):
            break
        word = next_word(random)
        gpu, slot = part_of(word, 0, gpus), part_of(word, 1, slots)
    return gpu, slot


@compiled
def _try_swap(state: SearchState, here: int, there: int, mine: int, other: int, squarings: int) -> None:
    """What `sum_K` would change by if two GPUs swapped `mine` and `other`."""
    for step in range(len(state.sum_K)):
        less = state.copy_XK[mine, step] - state.copy_XK[other, step]
        lighter = power(state.gpu_GK[here, step] - less, squarings) - state.power_GK[here, step]
        heavier = power(state.gpu_GK[there, step] + less, squarings) - state.power_GK[there, step]
        state.change_K[step] = lighter + heavier
        state.term_K[step] = state.change_K[step] * state.slope_K[step]


@compiled
def _try_exchange(loads: SearchLoads, state: SearchState, there: int, loser: int, winner: int, squarings: int) -> None:
    """What `sum_K` would change by if a copy of `winner` replaced the one of `loser` on GPU `there`."""
    f = np.float32
    fewer, more = f(1) / f(state.copies_X[loser] - 1), f(1) / f(state.copies_X[winner] + 1)
    for step in range(len(state.sum_K)):
        load = loads.load_XK[loser, step] * fewer + loads.risk_X[loser] * fewer * fewer
        state.heavier_K[step] = load * state.unit_K[step] - state.copy_XK[loser, step]
        load = loads.load_XK[winner, step] * more + loads.risk_X[winner] * more * more
        state.lighter_K[step] = load * state.unit_K[step] - state.copy_XK[winner, step]
    for step in range(len(state.sum_K)):
        load = state.copy_XK[winner, step] + state.lighter_K[step] - state.copy_XK[loser, step]
        load = power(state.gpu_GK[there, step] + load, squarings)
        state.change_K[step] = load - state.power_GK[there, step]
    for gpu in range(len(state.gpu_GK)):
        losers, winners = f(state.holds_XG[loser, gpu]), f(state.holds_XG[winner, gpu])
        if gpu == there or losers + winners == 0:
            continue
        for step in range(len(state.sum_K)):
            load = state.gpu_GK[gpu, step] + winners * state.lighter_K[step] + losers * state.heavier_K[step]
            state.change_K[step] += power(load, squarings) - state.power_GK[gpu, step]
    for step in range(len(state.sum_K)):
        state.term_K[step] = state.change_K[step] * state.slope_K[step]


@compiled
def _first_order_loss(state: SearchState) -> float:
    """What the value would lose to first order in `sum_K`, which is never too little."""
    for block in range(LANES, len(state.term_K), LANES):
        for lane in range(LANES):
            state.term_K[lane] += state.term_K[block + lane]
    total = np.float32(0)
    for lane in range(LANES):
        total += state.term_K[lane]
    return float(total)


@compiled
def _loss(loads: SearchLoads, state: SearchState, squarings: int, falls: bool) -> float:
    """What the value would lose by `change_K`."""
    total = np.float32(0)
    for step in loads.busy_K[: loads.busy]:
        before = root(state.sum_K[step], squarings)
        after = root(max(state.sum_K[step] + state.change_K[step], np.float32(1e-30)), squarings)
        unit = state.unit_K[step]
        total += loads.weight_K[step] * ((after - before) / unit if falls else (1 / before - 1 / after) * unit)
    return float(total)


@compiled
def _swap(state: SearchState, here: int, there: int, first: int, second: int, squarings: int) -> None:
    mine, other = state.slot_GC[here, first], state.slot_GC[there, second]
    state.slot_GC[here, first], state.slot_GC[there, second] = other, mine
    state.holds_XG[mine, here], state.holds_XG[mine, there] = False, True
    state.holds_XG[other, there], state.holds_XG[other, here] = False, True
    for step in range(len(state.sum_K)):
        less = state.copy_XK[mine, step] - state.copy_XK[other, step]
        state.gpu_GK[here, step] -= less
        state.gpu_GK[there, step] += less
        state.sum_K[step] += state.change_K[step]
    for gpu in (here, there):
        _changed(state, gpu, squarings)


@compiled
def _exchange(state: SearchState, there: int, slot: int, winner: int, squarings: int) -> None:
    """After `_try_exchange`: a copy of `winner` takes the slot of another expert's replica."""
    loser = state.slot_GC[there, slot]
    for step in range(len(state.sum_K)):
        less = state.copy_XK[loser, step] - state.copy_XK[winner, step] - state.lighter_K[step]
        state.gpu_GK[there, step] -= less
        state.sum_K[step] += state.change_K[step]
    for gpu in range(len(state.gpu_GK)):
        losers, winners = np.float32(state.holds_XG[loser, gpu]), np.float32(state.holds_XG[winner, gpu])
        if losers + winners == 0:
            continue
        if gpu != there:
            for step in range(len(state.sum_K)):
                state.gpu_GK[gpu, step] += winners * state.lighter_K[step] + losers * state.heavier_K[step]
        _changed(state, gpu, squarings)
    for step in range(len(state.sum_K)):
        state.copy_XK[loser, step] += state.heavier_K[step]
        state.copy_XK[winner, step] += state.lighter_K[step]
    state.slot_GC[there, slot] = winner
    state.holds_XG[loser, there], state.holds_XG[winner, there] = False, True
    state.copies_X[loser] -= 1
    state.copies_X[winner] += 1


@compiled
def _changed(state: SearchState, gpu: int, squarings: int) -> None:
    """Bring what depends on the loads of a GPU up to date, except for sums."""
    for step in range(len(state.sum_K)):
        state.power_GK[gpu, step] = power(state.gpu_GK[gpu, step], squarings)
        best = state.fullest_K[step]
        if best == gpu:
            state.fullest_K[step] = UNKNOWN
        elif best != UNKNOWN and state.gpu_GK[gpu, step] > state.gpu_GK[best, step]:
            state.fullest_K[step] = gpu


def warm_up() -> None:
    """Compile, or load what was compiled before. Raises whatever numba raises if it cannot."""
    loads = LayerLoads(
        load_LXK=np.ones((1, 3, LANES), np.float32),
        risk_LX=np.zeros((1, 3), np.float32),
        weight_LK=np.ones((1, LANES), np.float32),
        floor_LK=np.zeros((1, LANES), np.float32),
        busy_LK=np.zeros((1, LANES), np.int64),
        busy_L=np.ones(1, np.int64),
        peak_LX=np.ones((1, 3)),
    )
    one_B = np.ones(1, np.int64)
    slot_BGC = np.array([[[0], [1]]], np.int32)
    batch = Batch(
        one_B * 0, one_B, slot_BGC, one_B * 3, np.ones(1), np.ones((1, 1), np.int64), slot_BGC[None].copy(), False, 0
    )
    anneal_rows(loads, batch, 0, 1)
