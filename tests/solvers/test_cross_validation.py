"""Plans judged on steps that they were not made from."""

from dataclasses import replace

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.solvers.cross_validation import deal_steps, retained_curves, seen_and_unseen
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import BenefitCurves, PlanningProblem
from craftc.solvers.replay import placement_array, placements_of, replay
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
        seen = replace(problem, counts_SLE=own[0])
        if planner.sketches:
            placements = placements_of(planner.sketch(seen, np.arange(4), np.array(replicas_L)))
        else:
            placements = planner.place(seen, replicas_L)
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


def retained(counts_SLE, gpus=8, replicas_per_gpu=4, folds=4):
    problem = problem_of(counts_SLE, gpus, replicas_per_gpu)
    own = QUICK.estimate(problem)
    return own, retained_curves(problem, QUICK, own, deal_steps(len(counts_SLE), folds))


def test_what_steps_share_is_retained_and_what_they_do_not_is_lost():
    for loads, least, most in ((steady_loads(), 0.6, 1.0), (drifting_loads(), -1.0, 0.4)):
        own, kept = retained(loads)
        assert kept.candidates_C == own.candidates_C
        retention_C = kept.benefit_LC[:, 1:].mean(axis=0) / own.benefit_LC[:, 1:].mean(axis=0)
        assert least <= retention_C.min()
        assert retention_C.max() <= most + 1e-9


def test_retention_is_of_a_count_and_the_same_in_every_layer():
    own, kept = retained(steady_or_drifting_loads(seed=0), gpus=16)
    retention_C = kept.benefit_LC.sum(axis=0)[1:] / own.benefit_LC.sum(axis=0)[1:]
    assert kept.benefit_LC[:, 1:] == pytest.approx(retention_C * own.benefit_LC[:, 1:])


def test_without_replicas_unseen_steps_reach_less():
    own, kept = retained(drifting_loads())
    assert kept.balancedness_LC[:, 0].mean() < own.balancedness_LC[:, 0].mean() - 0.05


class FitsWhatItSees(CraftPlanner):
    """On loads where step s has three times the tokens for expert s: one replica harms the step that is not seen."""

    sketches = True

    def sketch(self, problem, layer_B, replicas_B):
        (missing,) = set(range(4)) - set(problem.counts_SLE[:, 0].argmax(axis=1).tolist())
        first, second, third = (expert for expert in range(4) if expert != missing)
        by_count = {
            0: ((0, 1), (2, 3)),
            1: ((missing, first, second), (third, second)),
            2: ((missing, first, second), (third, first, second)),
        }
        return placement_array([by_count[count] for count in replicas_B.tolist()])


def test_counts_that_harm_unseen_steps_lose_and_others_do_not():
    counts_SLE = np.repeat((100 + 200 * np.eye(4, dtype=np.int64))[:, None], 3, axis=1)
    own = BenefitCurves((0, 1, 2), np.tile([0.75, 0.79, 0.9], (3, 1)))
    kept = retained_curves(problem_of(counts_SLE, gpus=2), FitsWhatItSees(), own, deal_steps(4, 4))
    assert kept.balancedness_LC[:, 0] == pytest.approx(0.75), "without replicas all steps are alike"
    assert kept.benefit_LC[:, 1] == pytest.approx(-0.04), "unseen .667 after .75: all of the benefit is lost, and more"
    assert kept.benefit_LC[:, 2] == pytest.approx(0.0), "unseen .75 after .75"


def test_scores_of_other_objectives_keep_as_much():
    problem = problem_of(steady_loads(), gpus=16)
    plain = QUICK.estimate(problem)
    own = replace(plain, score_LC=2 * plain.balancedness_LC)
    kept = retained_curves(problem, QUICK, own, deal_steps(8, 4))
    gained_LC = kept.balancedness_LC - kept.balancedness_LC[:, :1]
    assert kept.benefit_LC == pytest.approx(2 * gained_LC)


def test_curves_of_one_point_and_of_no_benefit():
    problem = problem_of(steady_loads(steps=4))
    flat = BenefitCurves((0,), np.full((4, 1), 0.5))
    assert retained_curves(problem, QUICK, flat, deal_steps(4, 2)).benefit_LC.tolist() == [[0.0]] * 4
