"""The plan beside the baselines, all on the same loads."""

import numpy as np
import pytest

from craftc.solvers.objectives import step_time
from craftc.solvers.replay import replay
from tests.passes.planning.compilations import planned


def test_the_estimate_compares_all_planners_on_the_same_loads():
    estimate = planned("craft").plan.estimate
    rows = {row.planner: row for row in estimate.planners}
    assert {"contiguous", "placement", "eplb", "craft"} <= set(rows)
    assert rows["contiguous"].replicas_per_gpu == rows["placement"].bytes_per_gpu == 0
    assert (rows["eplb"].replicas_per_gpu, rows["eplb"].bytes_per_gpu) == (3, 300)
    assert rows["contiguous"].balancedness < rows["placement"].balancedness < rows["craft"].balancedness
    assert rows["craft"].balancedness == estimate.balancedness <= estimate.bound
    assert rows["placement"].balancedness == pytest.approx(np.mean([layer.placement_only for layer in estimate.layers]))
    assert estimate.predicted == pytest.approx(estimate.balancedness, abs=0.05)
    assert estimate.balancedness == pytest.approx(np.mean([layer.planned for layer in estimate.layers]))
    assert all(layer.planned <= layer.bound for layer in estimate.layers)


def test_planners_keep_expert_groups_where_they_can():
    plan = planned("eplb", expert_groups=4).plan
    assert plan.groups == 4
    rows = {row.planner: row.balancedness for row in plan.estimate.planners}
    grouped = planned("craftc", expert_groups=4).plan
    assert rows["craftc"] == pytest.approx(grouped.estimate.balancedness, abs=0.03), "at its lowest effort"
    assert rows["craftc"] > rows["eplb"]
    ungrouped = {row.planner: row.balancedness for row in planned("craft").plan.estimate.planners}
    assert rows["craft"] == ungrouped["craft"]


def test_both_measures_are_stated_for_every_row():
    done = planned("craft")
    estimate, problem = done.plan.estimate, done.problem
    balanced = replay(problem.counts_SLE, [layer.placement for layer in done.plan.layers])
    assert estimate.planners[-1].step_time == pytest.approx(step_time(problem.counts_SLE, balanced))
    assert all(row.step_time >= 1 for row in estimate.planners)
    quick = planned("craftc", objective="step-time").plan.estimate
    assert quick.planners[-1].step_time < min(row.step_time for row in quick.planners[:-1])


def test_slots_count_in_the_step_time_of_every_row():
    free = {row.planner: row for row in planned(objective="step-time").plan.estimate.planners}
    slow = planned(objective="step-time", tokens_per_slot=1e6)
    tokens = slow.problem.counts_SLE.sum()
    for row in slow.plan.estimate.planners:
        assert row.step_time > free[row.planner].step_time
        if row.planner in ("contiguous", "placement"):  # 6 steps, 3 layers, 8 GPUs, two experts on each
            assert row.step_time == pytest.approx(6 * 3 * 8 * 2 * 1e6 / tokens)
    assert slow.plan.provenance.tokens_per_slot == 1e6
