"""Unequal shares in a plan."""

from dataclasses import replace

import numpy as np
import pytest

from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import run_checked
from craftc.passes.compilation import updated
from craftc.passes.planning.choose_shares import ChooseShares
from craftc.plans.evaluation import evaluate
from craftc.plans.file import parse_plan, plan_bytes
from craftc.solvers.replay import replay
from tests.passes.planning.compilations import planned


def with_shares(before):
    return run_checked(ChooseShares(), before)


def shared():
    rng = np.random.default_rng(0)
    counts_SLE = (rng.lognormal(0, 1.2, (1, 3, 16)) * rng.lognormal(0, 0.1, (8, 3, 16)) * 500).astype(np.int64)
    steady = LoadProfile.from_counts(counts_SLE, top_k=(2, 2, 2))
    before = planned("craft", loads=steady)
    return before, with_shares(before)


def test_shares_gain_and_the_estimate_says_so():
    before, after = shared()
    plan = after.plan
    assert any(layer.shares is not None for layer in plan.layers)
    assert [layer.placement for layer in plan.layers] == [layer.placement for layer in before.plan.layers]
    reached = replay(
        after.loads.counts_SLE, [layer.placement for layer in plan.layers], [layer.shares for layer in plan.layers]
    ).mean(axis=0)
    assert plan.estimate.balancedness == pytest.approx(reached.mean())
    assert [layer.planned for layer in plan.estimate.layers] == pytest.approx(reached.tolist())
    assert plan.estimate.balancedness > before.plan.estimate.balancedness
    by_planner = {row.planner: row.balancedness for row in plan.estimate.planners}
    assert by_planner["craft"] == plan.estimate.balancedness
    assert plan.estimate.balancedness <= plan.estimate.bound


def test_the_plan_file_keeps_them_and_evaluate_obeys():
    plan = shared()[1].plan
    read = parse_plan(plan_bytes(plan))
    assert read == plan
    assert evaluate(read, shared()[1].loads).planned == pytest.approx(plan.estimate.balancedness)


def test_shares_that_a_layer_has_stay_where_new_ones_gain_nothing():
    before, _ = shared()
    one_step = updated(before, problem=before.problem.on_steps(slice(0, 1)))
    given = tuple(
        tuple(1.0 / layer.copies_E[expert] for expert in gpu)
        for layer in before.plan.layers[:1]
        for gpu in layer.placement
    )
    layers = (replace(before.plan.layers[0], shares=given), *before.plan.layers[1:])
    after = with_shares(updated(one_step, plan=replace(before.plan, layers=layers)))
    assert after.plan.layers == layers
    assert np.isfinite(after.plan.estimate.balancedness)


def test_for_step_time_shares_make_steps_shorter_and_the_estimate_says_so():
    rng = np.random.default_rng(8)
    scale_S11 = np.array([2, 20, 2, 20, 20, 2, 20, 2])[:, None, None] * 50
    noisy_SLE = rng.lognormal(0, 1.2, (1, 3, 16)) * rng.lognormal(0, 0.1, (8, 3, 16))
    counts_SLE = (noisy_SLE * scale_S11).astype(np.int64)
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2, 2, 2))
    before = planned("craftc", loads=loads, objective="step-time", tokens_per_slot=30.0)
    plan = with_shares(before).plan
    assert any(layer.shares is not None for layer in plan.layers)
    assert plan.estimate.planners[-1].step_time < before.plan.estimate.planners[-1].step_time
    assert evaluate(plan, loads).step_time == pytest.approx(plan.estimate.planners[-1].step_time)
    assert plan.estimate.planners[:-1] == before.plan.estimate.planners[:-1]
