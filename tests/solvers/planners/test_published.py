"""Baselines of every comparison, whatever the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import EplbPlanner
from craftc.solvers.planners.published import placement_only, published_eplb
from craftc.solvers.problem import Placement, PlanningProblem
from craftc.topology import Topology

SIZE = 100


def problem_of(experts: int, gpus: int, nodes: int = 1, budget_bytes: int = 0, **fields) -> PlanningProblem:
    counts_SLE = np.random.default_rng(experts).integers(1, 1000, (3, 2, experts))
    return PlanningProblem(counts_SLE, Topology(gpus, nodes), (SIZE, SIZE), budget_bytes, **fields)


def copies(placement: Placement, experts: int) -> list[int]:
    return np.bincount([expert for gpu in placement for expert in gpu], minlength=experts).tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 24), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000))
def test_placement_only_holds_every_expert_once_whatever_the_budget(experts, per_node, nodes, budget_bytes):
    problem = problem_of(experts, per_node * nodes, nodes, budget_bytes)
    for placement in placement_only(problem):
        assert copies(placement, experts) == [1] * experts
        slots = [len(gpu) for gpu in placement]
        assert max(slots) - min(slots) <= 1


def test_placement_only_is_crafts():
    problem = problem_of(32, 8, 2)
    assert placement_only(problem) == CraftPlanner().place(problem, (0, 0))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 24), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000))
def test_eplb_adds_as_few_equal_slots_as_it_can_but_at_least_one(experts, per_node, nodes, budget_bytes):
    gpus = per_node * nodes
    for placement in published_eplb(problem_of(experts, gpus, nodes, budget_bytes)):
        slots = {len(gpu) for gpu in placement}
        assert slots == {experts // gpus + (gpus > 1)}
        assert min(copies(placement, experts)) >= 1


def test_eplb_is_what_the_planner_does_with_a_budget_for_it():
    paid = problem_of(32, 8, 2, budget_bytes=2 * 8 * SIZE)
    planner = EplbPlanner()
    allocation = planner.allocate(paid, planner.estimate(paid))
    placed = planner.place(paid, allocation.replicas_L)
    for own, published in zip(placed, published_eplb(problem_of(32, 8, 2)), strict=True):
        assert copies(own, 32) == copies(published, 32)


@pytest.mark.parametrize("baseline", [placement_only, published_eplb])
def test_layers_that_differ_are_placed_each_with_its_own_experts(baseline):
    counts_SLE = np.random.default_rng(0).integers(1, 1000, (3, 3, 16))
    counts_SLE[:, 1, 8:] = 0
    problem = PlanningProblem(counts_SLE, Topology(8), (SIZE,) * 3, 0, layer_experts=(16, 8, 16))
    placed = baseline(problem)
    replicas = 8 if baseline is published_eplb else 0
    for placement, experts in zip(placed, (16, 8, 16), strict=True):
        assert {expert for gpu in placement for expert in gpu} == set(range(experts))
        assert sum(map(len, placement)) == experts + replicas


@pytest.mark.parametrize("baseline", [placement_only, published_eplb])
def test_the_same_loads_give_the_same_placements(baseline):
    assert baseline(problem_of(32, 8, 2)) == baseline(problem_of(32, 8, 2))
