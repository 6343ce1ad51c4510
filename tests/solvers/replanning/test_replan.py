"""Replanning: within the budget of moves, never worse than the old plan, better with more moves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Infeasible
from craftc.solvers.objectives import most_slots, placed_step_time, score
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.kinds import for_layers
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replanning.moves import moves_per_gpu
from craftc.solvers.replanning.replan import OldLayer, replan
from craftc.solvers.replay import replay
from craftc.solvers.search.effort import EFFORTS
from craftc.solvers.verifier import PlacedLayer, group_violations, violations
from craftc.topology import Topology

PLANNER = StepwisePlanner(effort=EFFORTS["low"])
EVERYTHING = 10**12


def problem_of(seed, shape=(5, 3, 12), topology=Topology(4, 2), sizes=(10, 7, 10), budget=90):
    _, layers, experts = shape
    rng = np.random.default_rng(seed)
    popularity_LE = rng.lognormal(0, 1.2, (layers, experts))
    counts_SLE = (popularity_LE * rng.lognormal(0, 0.4, shape) * 50).astype(np.int64) + 1
    return PlanningProblem(counts_SLE, topology, sizes[:layers], budget)


def planned(problem):
    curves = PLANNER.estimate(problem)
    allocation = PLANNER.allocate(problem, curves)
    return allocation.replicas_L, PLANNER.place(problem, allocation.replicas_L)


def drifted(seed, **kinds):
    """An old plan, and the problem and fresh plan on loads with other hot experts."""
    _, old = planned(problem_of(seed, **kinds))
    new = problem_of(seed + 1, **kinds)
    replicas_L, fresh = planned(new)
    return tuple(map(OldLayer, old)), new, replicas_L, fresh


def balancedness(problem, placements):
    return float(replay(problem.counts_SLE, placements).mean())


def moved_bytes(old_L, new_L, sizes_L):
    return sum(
        sum(moves_per_gpu(old.placement, new)) * size for old, new, size in zip(old_L, new_L, sizes_L, strict=True)
    )


def check(problem, old_L, replanned, max_move_bytes):
    assert replanned.moved_bytes == moved_bytes(old_L, replanned.placements, problem.expert_bytes_L) <= max_move_bytes
    placed = [
        PlacedLayer(str(layer), problem.experts, size, sum(map(len, placement)) - problem.experts, placement)
        for layer, (placement, size) in enumerate(zip(replanned.placements, problem.expert_bytes_L, strict=True))
    ]
    assert violations(placed, problem.topology.gpus, problem.budget_bytes) == ()
    assert replanned.score_L == pytest.approx(replay(problem.counts_SLE, replanned.placements).mean(axis=0))
    for old, new in zip(old_L, replanned.placements, strict=True):
        for before, after in zip(old.placement, new, strict=True):
            for slot, expert in enumerate(before):
                assert expert not in after or slot >= len(after) or after[slot] == expert


def test_nothing_may_move_returns_the_old_placements():
    old_L, problem, replicas_L, _ = drifted(0)
    replanned = replan(problem, PLANNER, replicas_L, old_L, 0)
    assert replanned.placements == tuple(old.placement for old in old_L)
    assert replanned.moved_bytes == 0


def test_with_room_for_every_move_not_worse_than_planning_afresh():
    old_L, problem, replicas_L, fresh = drifted(0)
    replanned = replan(problem, PLANNER, replicas_L, old_L, EVERYTHING)
    check(problem, old_L, replanned, EVERYTHING)
    assert np.mean(replanned.score_L) >= balancedness(problem, fresh) - 1e-12


def test_same_loads_move_nothing_much():
    problem = problem_of(3)
    replicas_L, placements = planned(problem)
    replanned = replan(problem, PLANNER, replicas_L, tuple(map(OldLayer, placements)), EVERYTHING)
    assert np.mean(replanned.score_L) >= balancedness(problem, placements) - 1e-12


def test_moves_matter_most_where_they_gain_most():
    """One layer drifted, the other did not: all moves go to the first."""
    first = problem_of(5, shape=(4, 2, 12), budget=80)
    replicas_L, old = planned(first)
    counts_SLE = first.counts_SLE.copy()
    counts_SLE[:, 0] = counts_SLE[:, 0, ::-1]
    problem = replace(first, counts_SLE=counts_SLE)
    replanned = replan(problem, PLANNER, replicas_L, tuple(map(OldLayer, old)), 40)
    assert replanned.placements[1] == old[1]
    assert 0 < replanned.moved_bytes <= 40
    assert np.mean(replanned.score_L) > balancedness(problem, old)


@settings(deadline=None, max_examples=12)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(4, 10)),
    st.sampled_from([Topology(1), Topology(2), Topology(4, 2), Topology(6, 3)]),
    st.integers(40, 150),
)
def test_within_the_budget_never_worse_and_monotone(seed, shape, topology, budget):
    old_L, problem, replicas_L, _ = drifted(seed, shape=shape, topology=topology, budget=budget)
    reached = balancedness(problem, [old.placement for old in old_L])
    for max_move_bytes in (0, 9, 30, 100, EVERYTHING):
        replanned = replan(problem, PLANNER, replicas_L, old_L, max_move_bytes)
        check(problem, old_L, replanned, max_move_bytes)
        assert np.mean(replanned.score_L) >= reached - 1e-6
        reached = float(np.mean(replanned.score_L))


def test_shares_of_a_layer_that_stays_are_counted():
    placement = ((0, 1), (0, 2))
    problem = PlanningProblem(np.array([[[6, 4, 0]]]), Topology(2), (10,), 10)
    old = OldLayer(placement, ((1 / 6, 1.0), (5 / 6, 1.0)))
    replanned = replan(problem, PLANNER, (1,), (old,), EVERYTHING)
    assert replanned.placements == (placement,)
    assert replanned.score_L == (1.0,)


def test_a_smaller_budget_drops_replicas_without_moving():
    old_L, problem, _, _ = drifted(2)
    smaller = replace(problem, budget_bytes=20)
    replicas_L, _ = planned(smaller)
    replanned = replan(smaller, PLANNER, replicas_L, old_L, EVERYTHING)
    check(smaller, old_L, replanned, EVERYTHING)


def test_a_smaller_budget_that_needs_moves_says_how_many():
    # Without the replica the second layer's odd expert must lie on the other GPU to keep memory even.
    old_L = (OldLayer(((0, 1), (0, 2))), OldLayer(((0, 1), (2,))))
    problem = PlanningProblem(np.ones((1, 2, 3), dtype=np.int64), Topology(2), (10, 10), 0)
    with pytest.raises(Infeasible, match="move at least 10 bytes; give --max-move 10B or more"):
        replan(problem, PLANNER, (0, 0), old_L, 9)
    check(problem, old_L, replan(problem, PLANNER, (0, 0), old_L, 10), 10)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([(Topology(4, 2), 4), (Topology(6, 3), 3), (Topology(8, 2), 2)]))
def test_groups_stay_on_their_node(seed, shape):
    topology, groups = shape
    kinds = {"shape": (4, 2, 12), "topology": topology, "budget": 120, "sizes": (10, 10)}
    planner = GroupedPlanner(PLANNER)
    before = replace(problem_of(seed, **kinds), groups=groups)
    old = planner.place(before, planner.allocate(before, planner.estimate(before)).replicas_L)
    problem = replace(problem_of(seed + 1, **kinds), groups=groups)
    replicas_L = planner.allocate(problem, planner.estimate(problem)).replicas_L
    old_L = tuple(map(OldLayer, old))
    reached = balancedness(problem, old)
    for max_move_bytes in (0, 20, 100, EVERYTHING):
        replanned = replan(problem, planner, replicas_L, old_L, max_move_bytes)
        check(problem, old_L, replanned, max_move_bytes)
        placed = [PlacedLayer("x", 12, 10, 0, placement) for placement in replanned.placements]
        assert group_violations(placed, topology, groups) == ()
        assert np.mean(replanned.score_L) >= reached - 1e-6
        reached = float(np.mean(replanned.score_L))
    assert reached >= balancedness(problem, planner.place(problem, replicas_L)) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_for_step_time_moves_are_spent_on_step_time(seed):
    rng = np.random.default_rng(seed)
    sizes_S11 = np.array([1000, 10, 10, 10, 10])[:, None, None]
    counts_SLE = (rng.lognormal(0, 1.2, (5, 3, 12)) * sizes_S11).astype(np.int64) + 1
    balanced = PlanningProblem(counts_SLE, Topology(4, 2), (10, 7, 10), 90)
    quick = replace(balanced, objective="step-time", tokens_per_slot=0.5)
    replicas_L, placements = planned(balanced)
    old_L = [OldLayer(placement) for placement in placements]
    reached = np.inf
    for limit in (0, 20, 60, EVERYTHING):
        found = replan(quick, PLANNER, replicas_L, old_L, limit)
        time = placed_step_time(quick, replay(counts_SLE, found.placements), found.placements)
        assert time == pytest.approx(-np.mean(found.score_L))
        assert time <= reached + 1e-9
        reached = time
    old_time = placed_step_time(quick, replay(counts_SLE, placements), placements)
    assert reached < old_time


@pytest.mark.parametrize("objective", ["balancedness", "step-time"])
def test_layers_that_differ_are_replanned_together(objective):
    before, after = (
        replace(with_experts(problem_of(seed), (12, 5, 8)), objective=objective, tokens_per_slot=0.0, budget_bytes=120)
        for seed in (0, 1)
    )
    planner = for_layers(PLANNER, before)
    old_L = tuple(map(OldLayer, planner.place(before, (4, 1, 3))))
    replicas_L = planner.allocate(after, planner.estimate(after)).replicas_L
    reached = -np.inf
    for limit in (0, 20, 60, EVERYTHING):
        found = replan(after, planner, replicas_L, old_L, limit)
        assert found.moved_bytes == moved_bytes(old_L, found.placements, after.expert_bytes_L) <= limit
        placed = [
            PlacedLayer(str(layer), experts, size, sum(map(len, placement)) - experts, placement)
            for layer, (experts, size, placement) in enumerate(
                zip(after.experts_L, after.expert_bytes_L, found.placements, strict=True)
            )
        ]
        assert violations(placed, 4, after.budget_bytes) == ()
        balancedness_SL = replay(after.counts_SLE, found.placements)
        scored = score(after, balancedness_SL, np.arange(3), most_slots(found.placements))
        assert found.score_L == pytest.approx(scored)
        assert np.mean(found.score_L) >= reached - 1e-9
        reached = float(np.mean(found.score_L))
    old_SL = replay(after.counts_SLE, [old.placement for old in old_L])
    assert reached > score(after, old_SL, np.arange(3)).mean()


def with_experts(problem, experts_L):
    counts_SLE = problem.counts_SLE.copy()
    counts_SLE[:, np.arange(counts_SLE.shape[2]) >= np.array(experts_L)[:, None]] = 0
    return replace(problem, counts_SLE=counts_SLE, layer_experts=experts_L)
