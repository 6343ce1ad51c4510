"""Plans judged on steps that they were not made from."""

from dataclasses import replace

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.solvers.allocation.integer_program import solve_allocation
from craftc.solvers.cross_validation import cross_validated_curves, deal_steps, seen_and_unseen
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import BenefitCurves, PlanningProblem
from craftc.solvers.replay import replay
from craftc.topology import Topology
from tests.solvers.loads_that_drift import drifting_loads, steady_loads, steady_or_drifting_loads

QUICK = planner_named("craftc").at_effort("low")


def problem_of(counts_SLE, gpus=8, replicas_per_gpu=4):
    layers = counts_SLE.shape[1]
    return PlanningProblem(counts_SLE, Topology(gpus), (1,) * layers, replicas_per_gpu * gpus)


def test_steps_are_dealt_in_turn():
    assert deal_steps(5, 2).tolist() == [0, 1, 0, 1, 0]
    assert deal_steps(3, 5).tolist() == [0, 1, 2]
    assert deal_steps(1, 2).tolist() == [0]


def test_every_fold_gets_its_part_of_every_workload():
    names = ["prefill", "decode"] * 4
    fold_S = deal_steps(8, 2, names)
    for workload in ("prefill", "decode"):
        assert sorted(fold_S[[name == workload for name in names]].tolist()) == [0, 0, 1, 1]
    assert deal_steps(4, 2, ["d", "a", "c", "b"]).tolist() == [0, 1, 0, 1]


def test_a_single_fold_leaves_nothing_out():
    with pytest.raises(BadInput, match="at least 2 folds, got 1"):
        deal_steps(4, 1)
    with pytest.raises(BadInput, match="record more steps"):
        seen_and_unseen(problem_of(steady_loads(steps=1)), QUICK, (0,) * 4, deal_steps(1, 2))


@pytest.mark.parametrize("name", ["craft", "eplb", "craftc"])
def test_each_step_is_judged_by_the_plan_made_without_it(name: str):
    problem, planner = problem_of(drifting_loads(steps=5)), planner_named(name)
    fold_S = deal_steps(5, 2)
    replicas_L = (2, 0, 3, 1)
    found = seen_and_unseen(problem, planner, replicas_L, fold_S)
    for fold in (0, 1):
        own = problem.counts_SLE[fold_S != fold], problem.counts_SLE[fold_S == fold]
        placements = planner.place(replace(problem, counts_SLE=own[0]), replicas_L)
        assert found.unseen_FL[fold] == pytest.approx(replay(own[1], placements).mean(axis=0))
    assert found.seen_L.mean() > found.unseen_FL.mean()


def test_steps_without_tokens_on_one_side_do_no_harm():
    counts_SLE = steady_loads(steps=4).copy()
    counts_SLE[::2, 1] = 0
    found = seen_and_unseen(problem_of(counts_SLE), QUICK, (2,) * 4, deal_steps(4, 2))
    assert np.isfinite(found.seen_L).all()
    assert np.isfinite(found.unseen_FL).all()


def test_thousands_of_steps_are_thinned_evenly():
    counts_SLE = steady_loads(steps=24)
    many = problem_of(np.tile(counts_SLE, (50, 1, 1)))
    found = seen_and_unseen(many, QUICK, (2,) * 4, deal_steps(1200, 3))
    assert found.unseen_FL.shape == (3, 4)
    few = seen_and_unseen(problem_of(counts_SLE), QUICK, (2,) * 4, deal_steps(24, 3))
    assert found.unseen_FL.mean() == pytest.approx(few.unseen_FL.mean(), abs=0.02)


def test_curves_are_scaled_to_what_holds_on_unseen_steps():
    problem = problem_of(steady_or_drifting_loads(seed=0), gpus=16)
    own = QUICK.estimate(problem)
    validated = cross_validated_curves(problem, QUICK, own, deal_steps(6, 3))
    assert validated.candidates_C == own.candidates_C
    factor_L = validated.benefit_LC[:, -1] / own.benefit_LC[:, -1]
    assert factor_L.min() >= 0
    assert factor_L[1::2].min() > factor_L[::2].max(), "steady layers keep more of their benefit than drifting ones"
    assert validated.benefit_LC == pytest.approx(factor_L[:, None] * own.benefit_LC)


def test_scores_of_other_objectives_are_scaled_alike():
    problem = problem_of(steady_or_drifting_loads(seed=0), gpus=16)
    plain = QUICK.estimate(problem)
    own = replace(plain, score_LC=2 * plain.balancedness_LC)
    validated = cross_validated_curves(problem, QUICK, own, deal_steps(6, 3))
    gained_LC = validated.balancedness_LC - validated.balancedness_LC[:, :1]
    assert validated.benefit_LC == pytest.approx(2 * gained_LC)


def test_curves_of_one_point_and_of_no_benefit():
    problem = problem_of(steady_loads(steps=4))
    flat = BenefitCurves((0,), np.full((4, 1), 0.5))
    assert cross_validated_curves(problem, QUICK, flat, deal_steps(4, 2)).benefit_LC.tolist() == [[0.0]] * 4


def test_validated_curves_allocate_better_where_layers_differ_in_what_holds():
    """Half of the layers have other hot experts every step: replicas spent there are lost on the steps to come."""
    gained = []
    for seed in range(3):
        planned_SLE, coming_SLE = np.split(steady_or_drifting_loads(seed, steps=46), [6])
        problem = problem_of(planned_SLE, gpus=16, replicas_per_gpu=2)
        own = QUICK.estimate(problem)
        validated = cross_validated_curves(problem, QUICK, own, deal_steps(6, 4))
        reached, on_drifting = [], []
        for curves in (own, validated):
            allocation = solve_allocation(curves, problem.expert_bytes_L, problem.budget_bytes)
            on_drifting.append(sum(allocation.replicas_L[::2]))
            reached.append(replay(coming_SLE, QUICK.place(problem, allocation.replicas_L)).mean())
        assert on_drifting[1] < on_drifting[0]
        gained.append(reached[1] - reached[0])
    assert np.mean(gained) > 0.005
