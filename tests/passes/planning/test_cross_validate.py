"""What the plan says of steps that it was not made from."""

from dataclasses import replace

import numpy as np
import pytest

from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import run_checked
from craftc.passes.planning.cross_validate import CrossValidate
from craftc.plans.file import parse_plan, plan_bytes
from tests.passes.planning.compilations import planned
from tests.solvers.loads_that_drift import drifting_loads, steady_loads


def checked(counts_SLE, planner="craftc", **options):
    layers = counts_SLE.shape[1]
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2,) * layers)
    return with_statement(planned(planner, loads=loads, sizes=(100,) * layers, **options))


def with_statement(before):
    return run_checked(CrossValidate(), before)


def without_statement(loads):
    return planned(loads=loads, sizes=(100,) * 4)


def test_replicas_that_fit_nothing_but_the_steps_seen_are_warned_of():
    plan = checked(drifting_loads()).plan
    figures = plan.estimate.cross_validation
    assert figures.folds == 2
    assert figures.gain_unseen < figures.gain_seen / 2
    placing, warning = plan.warnings
    assert f"replicas gain {figures.gain_seen:.3f} balancedness on the steps planned from" in warning
    assert f"{figures.gain_unseen:.3f}" in warning
    assert "placing experts gains" in placing, "placements without replicas fit nothing but these steps, too"


def test_a_placement_without_replicas_that_fits_only_the_steps_seen_is_warned_of():
    plan = checked(drifting_loads(), budget="0B").plan
    in_order = plan.estimate.planners[0].balancedness
    (warning,) = plan.warnings
    gained = plan.estimate.cross_validation.placement_only_seen - in_order
    assert f"placing experts gains {gained:.3f} balancedness over experts in order" in warning


@pytest.mark.parametrize("planner", ["craftc", "craft", "eplb"])
def test_replicas_that_help_unseen_steps_as_much_are_not(planner: str):
    plan = checked(steady_loads(), planner, budget="4replicas/gpu").plan
    figures = plan.estimate.cross_validation
    assert plan.warnings == ()
    assert figures.gain_unseen == pytest.approx(figures.gain_seen, abs=0.05)
    assert figures.unseen <= figures.seen + 0.01


def test_the_statement_is_kept_in_the_plan_file_and_changes_nothing_else():
    loads = LoadProfile.from_counts(drifting_loads(), top_k=(2,) * 4)
    before = without_statement(loads)
    after = with_statement(before)
    assert after.plan.layers == before.plan.layers
    assert replace(after.plan.estimate, cross_validation=None) == before.plan.estimate
    assert parse_plan(plan_bytes(after.plan)) == after.plan
    assert parse_plan(plan_bytes(before.plan)) == before.plan
    assert b"cross_validation" not in plan_bytes(before.plan)


def test_workloads_are_dealt_over_the_folds():
    """Two workloads that alternate: left out one at a time, each would be planned by the other alone."""
    counts_SLE = steady_loads(steps=8)
    counts_SLE[1::2] = counts_SLE[1::2, :, ::-1]
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2,) * 4, step_names=("prefill", "decode") * 4)
    named = with_statement(without_statement(loads)).plan.estimate.cross_validation
    unnamed = checked(counts_SLE).plan.estimate.cross_validation
    assert named.unseen > unnamed.unseen + 0.1


def test_groups_and_uniform_plans_are_checked_too():
    assert checked(steady_loads(), expert_groups=4).plan.estimate.cross_validation is not None
    assert checked(steady_loads(), "craftc-uniform", budget="16000B").plan.estimate.cross_validation


def test_a_single_step_cannot_be_left_out():
    plan = checked(steady_loads(steps=1)).plan
    assert plan.estimate.cross_validation is None
    assert plan.warnings == ()
    assert np.isfinite(plan.estimate.balancedness)
