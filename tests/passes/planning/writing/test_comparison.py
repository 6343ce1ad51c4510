"""The plan beside the baselines, all on the same loads."""

import numpy as np
import pytest

from tests.passes.planning.compilations import planned


def test_the_estimate_compares_all_arms_on_the_same_loads():
    estimate = planned("craft").plan.estimate
    arms = {arm.arm: arm for arm in estimate.arms}
    assert {"contiguous", "placement", "eplb", "craft"} <= set(arms)
    assert arms["contiguous"].replicas_per_gpu == arms["placement"].bytes_per_gpu == 0
    assert (arms["eplb"].replicas_per_gpu, arms["eplb"].bytes_per_gpu) == (3, 300)
    assert arms["contiguous"].balancedness < arms["placement"].balancedness < arms["craft"].balancedness
    assert arms["craft"].balancedness == estimate.balancedness <= estimate.bound
    assert arms["placement"].balancedness == pytest.approx(np.mean([layer.placement_only for layer in estimate.layers]))
    assert estimate.predicted == pytest.approx(estimate.balancedness, abs=0.05)
    assert estimate.balancedness == pytest.approx(np.mean([layer.planned for layer in estimate.layers]))
    assert all(layer.planned <= layer.bound for layer in estimate.layers)


def test_arms_keep_expert_groups_where_they_can():
    plan = planned("eplb", groups=4).plan
    assert plan.groups == 4
    arms = {arm.arm: arm.balancedness for arm in plan.estimate.arms}
    grouped = planned("craftc", groups=4).plan
    assert arms["craftc"] == grouped.estimate.balancedness > arms["eplb"]
    ungrouped = {arm.arm: arm.balancedness for arm in planned("craft").plan.estimate.arms}
    assert arms["craft"] == ungrouped["craft"]
