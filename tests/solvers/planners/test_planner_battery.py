"""What every registered planner must do, on shapes real models and mistakes have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Infeasible
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.planners.registry import PLANNERS, planner_named
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology

HUGE = 10**9


def problem_of(steps, layers, experts, gpus, nodes, budget_bytes, sizes=(10,), seed=0):
    rng = np.random.default_rng(seed)
    popularity_LE = rng.lognormal(0, 1.5, (layers, experts))
    counts_SLE = (popularity_LE * rng.lognormal(0, 0.4, (steps, layers, experts)) * 20).astype(np.int64)
    expert_bytes_L = tuple(sizes[layer % len(sizes)] for layer in range(layers))
    return PlanningProblem(counts_SLE, Topology(gpus, nodes), expert_bytes_L, budget_bytes)


def idle_experts():
    counts_SLE = np.zeros((3, 2, 12), dtype=np.int64)
    counts_SLE[:, :, 5] = 7
    return PlanningProblem(counts_SLE, Topology(4, 2), (10, 10), 100)


def idle_layer_and_step():
    counts_SLE = np.ones((2, 2, 8), dtype=np.int64)
    counts_SLE[0, 1] = counts_SLE[1] = 0
    return PlanningProblem(counts_SLE, Topology(4), (10, 10), 80)


CASES = {
    "even": problem_of(4, 3, 16, 8, 2, 160),
    "experts not divisible by GPUs": problem_of(4, 3, 13, 4, 2, 160),
    "fewer experts than GPUs": problem_of(3, 2, 5, 8, 4, 300),
    "far fewer experts than GPUs": problem_of(3, 2, 3, 16, 2, 150),
    "one layer": problem_of(5, 1, 10, 4, 1, 60),
    "one GPU": problem_of(3, 2, 6, 1, 1, 100),
    "one step": problem_of(1, 3, 12, 6, 3, 90),
    "one expert": problem_of(2, 2, 1, 4, 2, 60),
    "zero budget": problem_of(4, 3, 16, 8, 2, 0),
    "zero budget, not divisible": problem_of(4, 3, 13, 8, 2, 0),
    "huge budget": problem_of(3, 2, 6, 4, 2, HUGE),
    "budget below one expert": problem_of(4, 2, 8, 4, 1, 9),
    "different expert sizes": problem_of(4, 5, 12, 4, 2, 200, sizes=(10, 7, 23)),
    "idle experts": idle_experts(),
    "idle layer and step": idle_layer_and_step(),
}


def plan(name, problem):
    planner = planner_named(name)
    curves = planner.estimate(problem)
    allocation = planner.allocate(problem, curves)
    return curves, allocation, planner.place(problem, allocation.replicas_L)


def check(problem, curves, allocation, placements):
    layers, experts = problem.layers, problem.experts
    assert curves.candidates_C[0] == 0
    assert list(curves.candidates_C) == sorted(set(curves.candidates_C))
    assert curves.balancedness_LC.shape == (layers, len(curves.candidates_C))
    assert ((curves.balancedness_LC > 0) & (curves.balancedness_LC <= 1)).all()
    assert set(allocation.replicas_L) <= set(curves.candidates_C)
    assert allocation.bound >= allocation.objective - 1e-9
    spent = sum(count * size for count, size in zip(allocation.replicas_L, problem.expert_bytes_L, strict=True))
    placed = [
        PlacedLayer(str(layer), experts, problem.expert_bytes_L[layer], allocation.replicas_L[layer], placements[layer])
        for layer in range(layers)
    ]
    assert violations(placed, problem.topology.gpus, problem.budget_bytes, spent) == ()
    reached_L = replay(problem.counts_SLE, placements).mean(axis=0)
    bound_L = balancedness_bounds(problem.counts_SLE, allocation.replicas_L, problem.topology.gpus)
    assert (reached_L <= bound_L + 1e-12).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PLANNERS)
def test_sound_deterministic_and_within_the_bound(name, case):
    problem = CASES[case]
    try:
        first = plan(name, problem)
    except Infeasible as refusal:
        # EPLB alone may refuse, and the budget it asks for must do.
        assert name == "eplb"
        need = int(str(refusal).split("give a budget of ")[1].split(" bytes")[0])
        assert need > problem.budget_bytes
        problem = PlanningProblem(problem.counts_SLE, problem.topology, problem.expert_bytes_L, need)
        first = plan(name, problem)
    check(problem, *first)
    again = plan(name, problem)
    assert (first[1].replicas_L, first[2]) == (again[1].replicas_L, again[2])


@pytest.mark.parametrize("name", PLANNERS)
def test_loads_stay_as_they_are(name):
    problem = CASES["even"]
    before = problem.counts_SLE.copy()
    problem.counts_SLE.flags.writeable = False
    plan(name, problem)
    assert (problem.counts_SLE == before).all()


@pytest.mark.parametrize("name", PLANNERS)
@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 400),
)
def test_random_problems(name, seed, shape, topology, budget):
    steps, layers, experts = shape
    problem = problem_of(
        steps, layers, experts, topology[0] * topology[1], topology[1], budget, sizes=(10, 3), seed=seed
    )
    try:
        check(problem, *plan(name, problem))
    except Infeasible:
        assert name == "eplb"
