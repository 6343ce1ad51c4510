"""Replicas allocated by what they buy on steps left out."""

import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import run_checked
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.passes.planning.validate_curves import ValidateCurves
from craftc.plans.file import parse_plan, plan_bytes
from craftc.report.plan_report import plan_summary
from tests.passes.planning.compilations import compilation
from tests.solvers.loads_that_drift import drifting_loads, steady_or_drifting_loads


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


def test_replicas_go_where_they_hold():
    before = estimated(steady_or_drifting_loads(seed=0), budget="3replicas/gpu")
    own, validated = planned(before), planned(validated_by_steps(before))
    assert sum(validated.allocation.replicas_L[::2]) < sum(own.allocation.replicas_L[::2])
    assert own.plan.provenance.curves == "own"
    assert validated.plan.provenance.curves == "cross-validated"
    assert "benefit curves cross-validated" in plan_summary(validated.plan)
    assert parse_plan(plan_bytes(validated.plan)) == validated.plan


def test_the_estimate_is_on_the_plans_own_loads_all_the_same():
    before = estimated(steady_or_drifting_loads(seed=0), budget="3replicas/gpu")
    own, validated = planned(before), planned(validated_by_steps(before))
    theirs, ours = own.plan.estimate, validated.plan.estimate
    assert [layer.placement_only for layer in ours.layers] == [layer.placement_only for layer in theirs.layers]
    assert ours.predicted == pytest.approx(ours.balancedness, abs=0.02)


def test_an_automatic_budget_buys_nothing_that_does_not_hold():
    before = estimated(drifting_loads(), budget="auto")
    own = with_budget(before)
    validated = with_budget(validated_by_steps(before))
    assert validated.budget_curve.points[-1].reached < own.budget_curve.points[-1].reached - 0.05
    curves = validated.budget_curve, own.budget_curve
    gained = [curve.points[-1].reached - curve.points[0].reached for curve in curves]
    assert gained[0] < gained[1] / 2


def test_a_single_step_is_refused():
    with pytest.raises(BadInput, match="single step"):
        run_checked(ValidateCurves(), estimated(drifting_loads(steps=1), budget="800B"))
