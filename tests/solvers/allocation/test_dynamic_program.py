"""The dynamic program against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Unsupported
from craftc.solvers.allocation.dynamic_program import allocate_exactly
from craftc.solvers.problem import BenefitCurves


def best_by_trying_all(curves, expert_bytes_L, budget_bytes):
    """(objective, -bytes) of the best allocation."""
    layers = range(len(expert_bytes_L))
    return max(
        (sum(curves.benefit_LC[layer, choice[layer]] for layer in layers), -used)
        for choice in itertools.product(range(len(curves.candidates_C)), repeat=len(expert_bytes_L))
        if (used := sum(curves.candidates_C[choice[n]] * expert_bytes_L[n] for n in layers)) <= budget_bytes
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([6, 9, 15]), min_size=1, max_size=4),
    st.sampled_from([(0,), (0, 1, 2), (0, 1, 2, 4), (0, 3, 7)]),
    st.integers(0, 200),
    st.integers(0, 2**32 - 1),
)
def test_equals_trying_everything(expert_bytes_L, candidates_C, budget_bytes, seed):
    # Whole eighths, so that sums are exact and ties occur.
    balancedness_LC = np.random.default_rng(seed).integers(0, 9, (len(expert_bytes_L), len(candidates_C))) / 8
    curves = BenefitCurves(candidates_C, balancedness_LC)
    allocation = allocate_exactly(curves, expert_bytes_L, budget_bytes)
    used = sum(count * size for count, size in zip(allocation.replicas_L, expert_bytes_L, strict=True))
    assert (allocation.objective, -used) == best_by_trying_all(curves, expert_bytes_L, budget_bytes)
    realised = sum(
        curves.benefit_LC[layer, candidates_C.index(count)] for layer, count in enumerate(allocation.replicas_L)
    )
    assert realised == allocation.objective
    assert allocation.status == "optimal"


def test_a_table_too_large_is_refused():
    curves = BenefitCurves((0, 10**6), np.zeros((2, 2)))
    with pytest.raises(Unsupported, match="use the integer program"):
        allocate_exactly(curves, [10**9, 10**9 - 1], 10**18)
