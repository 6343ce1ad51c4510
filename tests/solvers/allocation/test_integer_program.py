"""The integer program against the dynamic program; honest about time-outs; silent on stdout."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.solvers.allocation import integer_program
from craftc.solvers.allocation.dynamic_program import allocate_exactly
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.problem import BenefitCurves
from tests.places import ROOT
from tests.solvers.allocation.test_greedy import random_instance

SOLVE = """
import sys
import numpy as np
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.problem import BenefitCurves
curves = BenefitCurves(tuple(range(9)), np.sort(np.random.default_rng(1).random((8, 9)), axis=1))
solve_allocation(curves, (1,) * 8, 11, solver=sys.argv[1])
print("kept")
"""


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1.1)),
    st.sampled_from(["auto", "highs", "cbc"]),
)
def test_equals_the_dynamic_program(instance, solver):
    curves, expert_bytes_L, budget = random_instance(instance)
    exact = allocate_exactly(curves, expert_bytes_L, budget)
    solved = solve_allocation(curves, expert_bytes_L, budget, solver=solver)
    assert solved.status == "optimal"
    assert solved.objective == pytest.approx(exact.objective, abs=1e-6)
    assert solved.bound >= exact.objective - 1e-9
    assert solved.gap <= 1e-6
    assert sum(n * size for n, size in zip(solved.replicas_L, expert_bytes_L, strict=True)) <= budget
    realised = sum(
        curves.benefit_LC[layer, curves.candidates_C.index(count)] for layer, count in enumerate(solved.replicas_L)
    )
    assert realised == pytest.approx(solved.objective, abs=1e-12)


def best_spending(curves, expert_bytes_L, least, most):
    """The largest benefit of all choices that take `least` to `most` bytes, or None."""
    layers = range(len(expert_bytes_L))
    return max(
        (
            sum(curves.benefit_LC[layer, choice[layer]] for layer in layers)
            for choice in itertools.product(range(len(curves.candidates_C)), repeat=len(layers))
            if least <= sum(curves.candidates_C[choice[layer]] * expert_bytes_L[layer] for layer in layers) <= most
        ),
        default=None,
    )


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.floats(0, 1.1)),
    st.integers(0, 12),
    st.sampled_from(["auto", "highs", "cbc"]),
)
def test_a_least_spending_is_kept(instance, slack, solver):
    curves, expert_bytes_L, budget = random_instance(instance)
    least = max(0, budget - slack)
    best = best_spending(curves, expert_bytes_L, least, budget)
    options = {"least_bytes": least, "solver": solver}
    if best is None:
        with pytest.raises(BadInput, match="no replica counts of the curves take"):
            solve_allocation(curves, expert_bytes_L, budget, **options)
        return
    solved = solve_allocation(curves, expert_bytes_L, budget, **options)
    assert least <= sum(n * size for n, size in zip(solved.replicas_L, expert_bytes_L, strict=True)) <= budget
    assert solved.status == "optimal"
    assert solved.objective == pytest.approx(best, abs=1e-6)
    assert solved.bound >= best - 1e-9


def test_auto_is_the_dynamic_program_where_that_is_small(monkeypatch):
    curves = BenefitCurves(tuple(range(9)), np.sort(np.random.default_rng(1).random((8, 9)), axis=1))
    quick = solve_allocation(curves, (1,) * 8, 11)
    monkeypatch.setattr(integer_program, "_MOST_CELLS", 0)
    large = solve_allocation(curves, (1,) * 8, 11)
    assert (quick.solver, large.solver[:6]) == ("dynamic program", "highs ")
    assert quick.status == large.status == "optimal"
    assert quick.objective == pytest.approx(large.objective, abs=1e-9)


def test_pulp_is_imported_only_for_an_integer_program():
    script = SOLVE + "sys.exit('pulp' in sys.modules)"
    codes = [
        subprocess.run([sys.executable, "-c", script, solver], cwd=ROOT, capture_output=True, timeout=60).returncode
        for solver in ("auto", "highs")
    ]
    assert codes == [0, 1]


def test_real_expert_sizes_keep_the_budget_exactly():
    rng = np.random.default_rng(4)
    curves = BenefitCurves((0, 1, 2, 4, 8, 16, 32, 64), np.sort(rng.random((58, 8)), axis=1))
    sizes = [88080384 if layer % 3 else 50331653 for layer in range(58)]
    budget = 8 * 64 * 88080384 + 1
    solved = solve_allocation(curves, sizes, budget)
    assert sum(n * size for n, size in zip(solved.replicas_L, sizes, strict=True)) <= budget
    assert solved.status == "optimal"


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_time_out_never_claims_optimality(solver):
    rng = np.random.default_rng(0)
    curves = BenefitCurves(tuple(range(257)), np.sort(rng.random((61, 257)), axis=1))
    solved = solve_allocation(curves, (1,) * 61, 5225, solver=solver, time_limit_s=0.01)
    assert solved.status == "feasible"
    assert sum(solved.replicas_L) <= 5225
    exact = allocate_exactly(curves, (1,) * 61, 5225)
    assert solved.objective <= exact.objective + 1e-9 <= solved.bound + 2e-9
    assert solved.objective >= 0.99 * exact.objective


@pytest.mark.parametrize("solver", ["auto", "highs", "cbc"])
def test_solvers_print_nothing(solver):
    """In a process of its own: HiGHS prints its banner at the first solve only."""
    ran = subprocess.run([sys.executable, "-c", SOLVE, solver], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("kept\n", "")


def test_a_budget_that_pays_for_everything_needs_no_solver():
    curves = BenefitCurves((0, 1, 2), np.array([[0.5, 0.9, 0.8], [0.4, 0.4, 0.4]]))
    solved = solve_allocation(curves, (3, 3), 1000)
    assert (solved.replicas_L, solved.status, solved.gap) == ((1, 0), "optimal", 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"solver": "gurobi"}, "choose auto, highs, cbc"), ({"time_limit_s": 0.0}, "must be positive")],
)
def test_bad_options_are_refused(options, message):
    curves = BenefitCurves((0, 1), np.zeros((1, 2)))
    with pytest.raises(BadInput, match=message):
        solve_allocation(curves, (1,), 1, **options)


def test_curves_of_another_model_are_refused():
    with pytest.raises(BadInput, match="do not fit 2 layers"):
        solve_allocation(BenefitCurves((0, 1), np.zeros((1, 2))), (1, 1), 1)
