"""Greedy copies against the plain loop they stand for, and its optimality on tiny cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.solvers.placement.copies import greedy_copies


def slow_greedy_copies(load_E, replicas, max_copies):
    """One copy at a time to the largest load / copies; idle experts after all others, fewest copies first."""
    copies = [1] * len(load_E)
    for _ in range(replicas):
        open_experts = [e for e in range(len(load_E)) if copies[e] < max_copies]
        chosen = max(open_experts, key=lambda e: (load_E[e] / copies[e], -copies[e] if load_E[e] == 0 else 0, -e))
        copies[chosen] += 1
    return copies


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
def test_equals_the_plain_loop(load_E, max_copies, part, seed):
    most = len(load_E) * (max_copies - 1)
    replicas_B = np.array([0, int(part * most), most])
    load_BE = np.array([load_E] * 3)
    copies_BE = greedy_copies(load_BE, replicas_B, max_copies)
    assert copies_BE.tolist() == [slow_greedy_copies(load_E, int(r), max_copies) for r in replicas_B]


def test_real_sized_loads_equal_the_plain_loop():
    load_BE = np.random.default_rng(0).lognormal(0, 1.5, (3, 64))
    replicas_B = np.array([7, 64, 300])
    expected = [slow_greedy_copies(load, int(r), 16) for load, r in zip(load_BE, replicas_B, strict=True)]
    assert greedy_copies(load_BE, replicas_B, 16).tolist() == expected


def test_no_copies_minimise_the_heaviest_copy_better():
    load_E, replicas, max_copies = np.array([9, 5, 2, 1]), 3, 3
    best = min(
        max(load_E / np.array(copies))
        for copies in itertools.product(range(1, max_copies + 1), repeat=4)
        if sum(copies) == 4 + replicas
    )
    copies_E = greedy_copies(load_E[None], np.array([replicas]), max_copies)[0]
    assert (load_E / copies_E).max() == best


def test_a_layer_without_load_spreads_evenly():
    assert greedy_copies(np.zeros((1, 4)), np.array([6]), 8)[0].tolist() == [3, 3, 2, 2]


def test_too_many_replicas_are_refused_with_the_most_that_fit():
    with pytest.raises(BadInput, match="at most 12"):
        greedy_copies(np.ones((1, 4)), np.array([13]), 4)
