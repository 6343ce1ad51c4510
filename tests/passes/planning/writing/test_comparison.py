"""The plan beside the baselines, all on the same loads."""

import numpy as np
import pytest

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
    assert rows["craftc"] == grouped.estimate.balancedness > rows["eplb"]
    ungrouped = {row.planner: row.balancedness for row in planned("craft").plan.estimate.planners}
    assert rows["craft"] == ungrouped["craft"]
