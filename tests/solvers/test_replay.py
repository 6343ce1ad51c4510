"""Replay against a slow reference that walks over every copy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers import replay as replay_module
from craftc.solvers.replay import (
    gpu_loads,
    placement_array,
    placements_of,
    replay,
    replay_batch,
    step_balancedness,
)

PLACEMENT = ((0, 1), (2, 0), (3,))


def slow_gpu_loads(counts_SE, placement):
    copies = {expert: sum(gpu.count(expert) for gpu in placement) for gpu in placement for expert in gpu}
    return [[sum(step[e] / copies[e] for e in gpu) for gpu in placement] for step in counts_SE.tolist()]


def test_gpu_loads_by_hand():
    counts_SE = np.array([[4, 1, 2, 3], [0, 0, 0, 8]])
    assert gpu_loads(counts_SE, PLACEMENT).tolist() == [[3, 4, 3], [0, 0, 8]]


def test_given_shares_are_obeyed():
    counts_SE = np.array([[4, 1, 2, 3]])
    shares = ((0.25, 1.0), (1.0, 0.75), (1.0,))
    assert gpu_loads(counts_SE, PLACEMENT, shares).tolist() == [[2, 5, 3]]
    balancedness_SL = replay(counts_SE[:, None], [PLACEMENT], [shares])
    assert balancedness_SL == pytest.approx(np.array([[10 / 3 / 5]]))


def test_a_copy_twice_on_a_gpu_counts_twice():
    assert gpu_loads(np.array([[6, 0]]), ((0, 0), (0, 1))).tolist() == [[4, 2]]


def test_step_balancedness_is_mean_over_max_and_one_when_idle():
    load_SG = np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0], [0.0, 4.0]])
    assert step_balancedness(load_SG).tolist() == pytest.approx([2 / 3, 1, 1, 1 / 2]), "an idle GPU counts in the mean"


def test_placement_array_round_trip_keeps_empty_gpus():
    placements = (PLACEMENT, ((), (0, 1, 2), (3,)))
    assert placements_of(placement_array(placements)) == placements


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 7), st.integers(1, 5))
def test_replay_and_batch_agree_with_the_slow_reference(seed, steps, experts, gpus):
    rng = np.random.default_rng(seed)
    counts_SLE = rng.integers(0, 9, (steps, 2, experts))
    placements = []
    for _ in range(2):
        held: list[list[int]] = [[] for _ in range(gpus)]
        for expert in range(experts):
            for gpu in rng.choice(gpus, rng.integers(1, gpus + 1), replace=False):
                held[gpu].append(expert)
        placements.append(tuple(tuple(gpu) for gpu in held))
    expected_SL = np.array(
        [
            step_balancedness(np.array(slow_gpu_loads(counts_SLE[:, layer], placement), dtype=float))
            for layer, placement in enumerate(placements)
        ]
    ).T
    assert replay(counts_SLE, placements) == pytest.approx(expected_SL)
    batch = replay_batch(
        counts_SLE, np.array([1, 0, 1]), placement_array([placements[1], placements[0], placements[1]])
    )
    assert batch == pytest.approx(expected_SL.mean(axis=0)[[1, 0, 1]])


def test_chunks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(1)
    counts_SLE = rng.integers(0, 50, (37, 2, 4))
    placements = [PLACEMENT, ((3, 1), (0, 2), (1, 2))]
    whole = replay(counts_SLE, placements)
    whole_batch = replay_batch(counts_SLE, np.array([0, 1, 1]), placement_array([*placements, placements[0]]))
    monkeypatch.setattr(replay_module, "_MAX_CELLS", 12)
    assert replay(counts_SLE, placements) == pytest.approx(whole)
    small = replay_batch(counts_SLE, np.array([0, 1, 1]), placement_array([*placements, placements[0]]))
    assert small == pytest.approx(whole_batch)
