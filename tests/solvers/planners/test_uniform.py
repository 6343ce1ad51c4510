"""Uniform planning: equal slots everywhere, within the budget, the best of the counts that fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Infeasible
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.planners.uniform import UniformPlanner
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay
from craftc.topology import Topology


def problem_of(seed: int, layers: int, experts: int, gpus: int, replicas_per_layer: float) -> PlanningProblem:
    counts_SLE = np.random.default_rng(seed).lognormal(3, 1.2, (4, layers, experts)).astype(np.int64) + 1
    sizes_L = tuple(1000 + 10 * layer for layer in range(layers))
    return PlanningProblem(counts_SLE, Topology(gpus), sizes_L, int(replicas_per_layer * sum(sizes_L)))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 99),
    layers=st.integers(1, 3),
    experts=st.integers(1, 20),
    gpus=st.integers(1, 6),
    replicas=st.floats(0, 30),
)
def test_slots_are_equal_and_the_budget_is_kept(
    seed: int, layers: int, experts: int, gpus: int, replicas: float
) -> None:
    problem = problem_of(seed, layers, experts, gpus, replicas)
    planner = UniformPlanner(CraftPlanner())
    least = -experts % gpus
    if problem.budget_bytes < least * sum(problem.expert_bytes_L) or least > experts * (gpus - 1):
        with pytest.raises(Infeasible, match=f"need {least} replicas in every layer"):
            planner.estimate(problem)
        return
    curves = planner.estimate(problem)
    allocation = planner.allocate(problem, curves)
    placements = planner.place(problem, allocation.replicas_L)
    assert len(set(allocation.replicas_L)) == 1
    assert {len(gpu) for placement in placements for gpu in placement} == {(experts + allocation.replicas_L[0]) // gpus}
    assert allocation.replicas_L[0] * sum(problem.expert_bytes_L) <= problem.budget_bytes
    gained = replay(problem.counts_SLE, placements).mean(axis=0) - curves.balancedness_LC[:, 0]
    assert allocation.objective == pytest.approx(gained.sum())
    assert allocation.objective == max(
        curves.benefit_LC[:, place].sum()
        for place, count in enumerate(curves.candidates_C)
        if (experts + count) % gpus == 0
    )


def test_many_counts_are_thinned_with_the_ends_kept() -> None:
    curves = UniformPlanner(CraftPlanner()).estimate(problem_of(1, 1, 64, 2, 50))
    assert len(curves.candidates_C) == 8
    assert (curves.candidates_C[0], curves.candidates_C[-1]) == (0, 50)


def test_any_planner_has_a_uniform_form_by_name() -> None:
    assert planner_named("craft-uniform").name == "craft-uniform"
    assert planner_named("craftc-uniform").name == "craftc-uniform"
    with pytest.raises(BadInput, match="planner 'none-uniform' is unknown"):
        planner_named("none-uniform")
