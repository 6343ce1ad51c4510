"""The quick allocation fits, its bound holds, and no candidate of an optimum is thrown away."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.allocation.dynamic_program import allocate_exactly
from craftc.solvers.allocation.greedy import candidates_that_matter, greedy_allocation
from craftc.solvers.problem import BenefitCurves

instances = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 7), st.floats(0, 1.2))


def random_instance(instance):
    seed, layers, candidates, part = instance
    rng = np.random.default_rng(seed)
    balancedness_LC = np.clip(np.cumsum(rng.normal(0.05, 0.1, (layers, candidates)), axis=1), 0, 1)
    curves = BenefitCurves(tuple(range(0, 2 * candidates, 2)), balancedness_LC)
    expert_bytes_L = rng.choice([4, 6, 10], layers).tolist()
    return curves, expert_bytes_L, int(part * sum(expert_bytes_L) * curves.candidates_C[-1])


@settings(deadline=None, max_examples=150)
@given(instances)
def test_fits_and_its_bound_holds(instance):
    curves, expert_bytes_L, budget = random_instance(instance)
    greedy = greedy_allocation(curves, expert_bytes_L, budget)
    best = allocate_exactly(curves, expert_bytes_L, budget)
    assert sum(n * size for n, size in zip(greedy.replicas_L, expert_bytes_L, strict=True)) <= budget
    assert greedy.objective <= best.objective + 1e-12
    assert greedy.bound >= best.objective - 1e-12
    if greedy.status == "optimal":
        assert greedy.objective >= best.objective - 1e-12


@settings(deadline=None, max_examples=150)
@given(instances)
def test_an_optimum_survives_the_reduction(instance):
    curves, expert_bytes_L, budget = random_instance(instance)
    greedy = greedy_allocation(curves, expert_bytes_L, budget)
    best = allocate_exactly(curves, expert_bytes_L, budget)
    matter_LC = candidates_that_matter(curves, expert_bytes_L, budget, greedy.objective)
    reduced_LC = np.full_like(curves.balancedness_LC, -1.0)
    for layer, kept in enumerate(matter_LC):
        assert kept[0] == 0
        reduced_LC[layer, kept] = curves.balancedness_LC[layer, kept]
    reduced = allocate_exactly(BenefitCurves(curves.candidates_C, reduced_LC), expert_bytes_L, budget)
    assert max(reduced.objective, greedy.objective) >= best.objective - 1e-9


def test_the_reduction_removes_most_of_a_large_instance():
    rng = np.random.default_rng(0)
    curves = BenefitCurves(tuple(range(65)), np.sort(rng.random((61, 65)), axis=1))
    greedy = greedy_allocation(curves, [1] * 61, 500)
    kept = sum(len(kept) for kept in candidates_that_matter(curves, [1] * 61, 500, greedy.objective))
    assert kept < 61 * 65 / 5
