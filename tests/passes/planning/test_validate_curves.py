"""Replicas allocated by what they buy on steps left out."""

import numpy as np
import pytest

from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import run_checked
from craftc.passes.compilation import updated
from craftc.passes.planning import validate_curves
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.passes.planning.validate_curves import ValidateCurves
from craftc.plans.file import parse_plan, plan_bytes
from craftc.report.plan_report import plan_summary
from craftc.solvers.problem import BenefitCurves
from tests.passes.planning.compilations import compilation
from tests.solvers.loads_that_drift import drifting_loads, steady_loads


def estimated(counts_SLE, budget):
    layers = counts_SLE.shape[1]
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2,) * layers)
    return run_checked(EstimateBenefit(), compilation(loads=loads, sizes=(100,) * layers, budget=budget))


def planned(before):
    return run_checked(PlaceReplicas(), run_checked(AllocateReplicas(), before))


def validated_by_steps(before):
    return run_checked(ValidateCurves(), before)


def with_budget(before):
    return run_checked(ChooseBudget(), before)


def with_curves_that_harm(before):
    """What left-out steps say is that every replica loses balancedness."""
    own = before.curves
    falling_LC = own.balancedness_LC[:, :1] - 0.01 * np.sqrt(own.candidates_C)
    return updated(before, validated_curves=BenefitCurves(own.candidates_C, falling_LC, falling_LC))


def test_replicas_that_harm_are_not_bought_and_the_plan_says_so():
    before = estimated(steady_loads(), budget="1replicas/gpu")
    own, validated = planned(before), planned(with_curves_that_harm(before))
    assert validated.allocation.replicas_L == (0,) * 4
    assert sum(own.allocation.replicas_L) > 0
    assert own.plan.provenance.curves == "own"
    assert validated.plan.provenance.curves == "cross-validated"
    assert "benefit curves cross-validated" in plan_summary(validated.plan)
    assert "because on steps left out of planning, other or more replicas gain less" in plan_summary(validated.plan)
    assert parse_plan(plan_bytes(validated.plan)) == validated.plan


@pytest.mark.parametrize(("lost", "decides"), [(0.05, True), (0.0001, False)])
def test_left_out_steps_decide_where_that_gains_more_than_luck(monkeypatch, lost, decides):
    before = estimated(steady_loads(), budget="1replicas/gpu")

    def kept(problem, planner, own, fold_S):
        falling_LC = own.balancedness_LC[:, :1] - lost * (np.array(own.candidates_C) > 0)
        return BenefitCurves(own.candidates_C, falling_LC, falling_LC)

    monkeypatch.setattr(validate_curves, "retained_curves", kept)
    assert (validated_by_steps(before).validated_curves is not None) == decides


def test_where_steps_are_alike_the_plans_own_loads_decide():
    before = validated_by_steps(estimated(steady_loads(), budget="3replicas/gpu"))
    assert before.validated_curves is None
    assert planned(before).plan.provenance.curves == "own"


def test_the_estimate_is_on_the_plans_own_loads_all_the_same():
    before = estimated(steady_loads(), budget="1replicas/gpu")
    theirs, ours = planned(before).plan.estimate, planned(with_curves_that_harm(before)).plan.estimate
    assert [layer.placement_only for layer in ours.layers] == [layer.placement_only for layer in theirs.layers]
    assert ours.predicted == pytest.approx(ours.balancedness, abs=0.03)


def test_an_automatic_budget_buys_nothing_that_does_not_hold():
    before = estimated(drifting_loads(), budget="auto")
    own = with_budget(before)
    validated = with_budget(validated_by_steps(before))
    assert validated.budget_curve.points[-1].reached < own.budget_curve.points[-1].reached - 0.05
    curves = validated.budget_curve, own.budget_curve
    gained = [curve.points[-1].reached - curve.points[0].reached for curve in curves]
    assert gained[0] < gained[1] / 2


@pytest.mark.parametrize("steps", [1, 3])
def test_fewer_than_four_steps_are_not_split(steps):
    assert validated_by_steps(estimated(drifting_loads(steps=steps), budget="800B")).validated_curves is None
