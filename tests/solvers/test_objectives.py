"""Objectives: where they differ, the plan made for one wins by it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Unsupported
from craftc.solvers.objectives import (
    most_slots,
    placed_step_time,
    score,
    slot_floor,
    step_time,
    step_weights,
    workload_balancedness,
    worst_workload_weights,
)
from craftc.solvers.planners.registry import PLANNERS, planner_for
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import gpu_loads, replay
from craftc.topology import Topology
from tests.plans.sample_plans import random_plan

PLANNER = PLANNERS["craftc"]


def two_kinds_of_steps(tokens_S, kind_S, seed=0, layers=3, experts=16):
    """Loads whose popular experts depend on the kind of step."""
    rng = np.random.default_rng(seed)
    popular_KLE = rng.dirichlet(np.full(experts, 0.25), (2, layers))
    return np.stack(
        [
            [rng.multinomial(tokens, popular_KLE[kind, layer]) for layer in range(layers)]
            for tokens, kind in zip(tokens_S, kind_S, strict=True)
        ]
    )


def problem_of(counts_SLE, replicas=8):
    layers = counts_SLE.shape[1]
    return PlanningProblem(counts_SLE, Topology(8), (1,) * layers, budget_bytes=replicas)


def replayed(problem):
    planner = planner_for("craftc", problem)
    placements = planner.place(problem, planner.allocate(problem, planner.estimate(problem)).replicas_L)
    return replay(problem.counts_SLE, placements)


def test_step_time_is_the_straggler_over_perfect_balance():
    counts_SLE = np.array([[[6, 2]], [[10, 10]]])
    balancedness_SL = replay(counts_SLE, [((0,), (1,))])
    straggling = sum(gpu_loads(step, ((0,), (1,))).max() for step in counts_SLE)
    assert step_time(counts_SLE, balancedness_SL) == pytest.approx(straggling / (4 + 10))


def test_scores_of_layers_add_up_to_the_step_time():
    counts_SLE = two_kinds_of_steps((500, 40, 3000), (0, 1, 1))
    problem = replace(problem_of(counts_SLE), objective="step-time")
    balancedness_SL = np.random.default_rng(1).uniform(0.2, 1, counts_SLE.shape[:2])
    total = -score(problem, balancedness_SL, np.arange(3)).sum() / 3
    assert total == pytest.approx(step_time(counts_SLE, balancedness_SL))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.integers(2, 6), st.floats(0, 50))
def test_step_time_is_the_score_and_what_gpus_wait_for(seed, steps, layers, gpus, tokens_per_slot):
    rng = np.random.default_rng(seed)
    counts_SLE = rng.integers(0, 40, (steps, layers, 2 * gpus))
    counts_SLE[0, 0, 0] += 1
    plan = random_plan(seed, gpus, 2 * gpus, [2 * gpus + int(rng.integers(0, gpus)) for _ in range(layers)], 0)
    placements = [layer.placement for layer in plan.layers]
    problem = PlanningProblem(
        counts_SLE, Topology(gpus), (1,) * layers, 0, objective="step-time", tokens_per_slot=tokens_per_slot
    )
    balancedness_SL = replay(counts_SLE, placements)
    time = placed_step_time(problem, balancedness_SL, placements)
    slots_L = most_slots(placements)
    waited = 0.0
    for layer, placement in enumerate(placements):
        for peak in gpu_loads(counts_SLE[:, layer], placement).max(axis=1):
            waited += max(peak, slots_L[layer] * tokens_per_slot) if peak else 0.0
    assert time == pytest.approx(waited / (counts_SLE.sum() / gpus))
    score_L = score(problem, balancedness_SL, np.arange(layers), slots_L)
    assert time == pytest.approx(-score_L.sum() / layers)
    # A mean of 1 / x is at least 1 / the mean of x, here with every step weighted by its tokens.
    tokens_SL = counts_SLE.sum(axis=2)
    assert time >= max(1.0, tokens_SL.sum() / (tokens_SL * balancedness_SL).sum()) - 1e-9
    assert time >= step_time(counts_SLE, balancedness_SL) - 1e-12
    if tokens_per_slot == 0:
        assert score_L == pytest.approx(score(problem, balancedness_SL, np.arange(layers)))
        assert not slot_floor(problem).any()


def test_balancedness_is_scored_as_its_mean():
    problem = problem_of(two_kinds_of_steps((50, 40, 30), (0, 1, 1)))
    balancedness_SB = np.random.default_rng(2).random((3, 2))
    assert score(problem, balancedness_SB, np.array([0, 2])) == pytest.approx(balancedness_SB.mean(axis=0))
    assert step_weights(problem) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_step_time_plan_wins_by_step_time_and_the_balanced_plan_by_balancedness(seed):
    counts_SLE = two_kinds_of_steps((20_000, 20_000, *[300] * 6), (0, 0, *[1] * 6), seed)
    balanced = replayed(problem_of(counts_SLE))
    quick = replayed(replace(problem_of(counts_SLE), objective="step-time"))
    assert step_time(counts_SLE, quick) < step_time(counts_SLE, balanced)
    assert quick.mean() < balanced.mean()


@pytest.mark.parametrize("seed", range(4))
def test_the_worst_workload_plan_wins_by_its_worst_workload(seed):
    kinds = (0, 0, 0, 0, 0, 0, 1)
    workloads = tuple("prefill" if kind == 0 else "decode" for kind in kinds)
    counts_SLE = two_kinds_of_steps((5000,) * len(kinds), kinds, seed)
    problem = problem_of(counts_SLE)
    weight_S = worst_workload_weights(problem, PLANNER, workloads)
    fair = replayed(replace(problem, step_weight_S=weight_S))
    balanced = replayed(problem)
    assert min(workload_balancedness(fair, workloads).values()) > min(
        workload_balancedness(balanced, workloads).values()
    )


def test_one_workload_weighs_all_steps_alike():
    counts_SLE = two_kinds_of_steps((500, 400), (0, 1))
    assert worst_workload_weights(problem_of(counts_SLE), PLANNER, ("a", "a")) == pytest.approx(1)


def test_workload_balancedness_is_a_mean_over_the_steps_of_each():
    balancedness_SL = np.array([[0.2, 0.4], [0.9, 0.7], [0.6, 0.4]])
    assert workload_balancedness(balancedness_SL, ("a", "b", "a")) == pytest.approx({"a": 0.4, "b": 0.8})


def test_workloads_need_names():
    problem = problem_of(two_kinds_of_steps((500, 400), (0, 1)))
    with pytest.raises(BadInput, match="0 workload names for 2 steps; give loads with step_names"):
        worst_workload_weights(problem, PLANNER, ())


def test_weights_follow_their_steps():
    problem = replace(problem_of(two_kinds_of_steps((500, 400), (0, 1))), step_weight_S=np.array([1.0, 3.0]))
    assert problem.on_steps(np.array([False, True])).step_weight_S.tolist() == [3.0]
    with pytest.raises(BadInput, match="3 step weights for 2 steps"):
        replace(problem, step_weight_S=np.ones(3))


@pytest.mark.parametrize("change", [{"objective": "step-time"}, {"step_weight_S": np.ones(2)}])
@pytest.mark.parametrize("planner", ["craft", "eplb"])
def test_baselines_know_balancedness_only(planner, change):
    problem = replace(problem_of(two_kinds_of_steps((500, 400), (0, 1))), **change)
    with pytest.raises(Unsupported, match=f"planner {planner} plans for balancedness only"):
        planner_for(planner, problem)


def test_replicas_that_cost_more_than_they_balance_are_not_bought():
    """Few tokens per expert, as in decode: a GPU reads the weights of its slots for longer than it computes."""
    counts_SLE = two_kinds_of_steps((64, 64, 64, 64), (0, 0, 1, 1))
    few = replace(problem_of(counts_SLE, replicas=24), objective="step-time")
    bought = {}
    for tokens_per_slot in (0.0, 40.0):
        problem = replace(few, tokens_per_slot=tokens_per_slot)
        planner = planner_for("craftc", problem)
        bought[tokens_per_slot] = planner.allocate(problem, planner.estimate(problem)).replicas_L
    assert sum(bought[0.0]) > 0
    assert bought[40.0] == (0, 0, 0)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_tokens_per_slot_are_a_number(wrong):
    with pytest.raises(BadInput, match="tokens per slot must be a number of at least 0"):
        replace(problem_of(two_kinds_of_steps((500, 400), (0, 1))), tokens_per_slot=wrong)
