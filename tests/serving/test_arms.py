"""Arms of a comparison: what a planner can do with each number of replicas, and the baselines."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput
from craftc.planning_options import PlanningOptions
from craftc.serving.arm import worth
from craftc.serving.arms import baseline_arms, planned_arms, replicas_budget, serving_options
from craftc.serving.held_out import held_out
from craftc.serving.objective import tokens_per_slot
from craftc.topology import Topology
from tests.serving.small_server import EXPERT_BYTES, LAYERS, TOPOLOGY, server_of, skewed_loads

SERVER = server_of()
SPLIT = held_out(SERVER.matched(skewed_loads()), None)


@pytest.fixture(scope="module")
def craft():
    return planned_arms("craft", (4, 1, 1, 2), SPLIT, SERVER, TOPOLOGY)


def test_every_number_is_planned_once_in_order_and_none_too(craft):
    assert list(craft) == [0, 1, 2, 4]
    assert [arm.replicas_per_gpu for arm in craft.values()] == [0, 1, 2, 4]
    assert {arm.name for arm in craft.values()} == {"craft"}


def test_replicas_take_memory_and_balance(craft):
    held = [arm.expert_bytes for arm in craft.values()]
    assert held == [(2 * LAYERS + count) * EXPERT_BYTES for count in craft]
    peaks = [arm.mean_peak for arm in craft.values()]
    assert peaks == sorted(peaks, reverse=True)


def test_none_of_crafts_is_the_baseline(craft):
    none, eplb = baseline_arms(SPLIT, SERVER, TOPOLOGY)
    assert worth(none) == worth(craft[0])
    assert (none.name, eplb.name) == ("none", "eplb")
    assert eplb.replicas_per_gpu == LAYERS
    own = planned_arms("eplb", (4,), SPLIT, SERVER, TOPOLOGY)[4]
    assert (own.expert_bytes, own.balancedness) == (eplb.expert_bytes, eplb.balancedness)


def test_each_number_is_what_it_is_alone(craft):
    alone = planned_arms("craft", (2,), SPLIT, SERVER, TOPOLOGY)
    assert worth(alone[2]) == worth(craft[2])


def test_plans_are_judged_on_the_other_steps(craft):
    judged = SERVER.matched(skewed_loads(seed=9))
    other = planned_arms("craft", (1,), held_out(SPLIT.planned, judged), SERVER, TOPOLOGY)
    assert other[1].expert_bytes == craft[1].expert_bytes
    assert other[1].mean_peak > craft[1].mean_peak


def test_what_there_is_no_room_for_is_left_out():
    assert list(planned_arms("craft", (1, 10**9), SPLIT, SERVER, TOPOLOGY)) == [0, 1]
    alone = planned_arms("craft", (0, 1, 2), SPLIT, server_of(), Topology(16, 2))
    assert list(alone) == [0, 1, 2]


def test_equal_slots_leave_out_what_does_not_divide_and_try_the_smallest_number_that_does():
    arms = planned_arms("eplb", (0, 1, 2, 4), SPLIT, SERVER, Topology(24, 3))
    assert list(arms) == [3, 4]
    assert arms[3].replicas_per_gpu == arms[4].replicas_per_gpu == pytest.approx(LAYERS * 16 / 24)
    assert list(planned_arms("eplb", (1,), SPLIT, SERVER, TOPOLOGY)) == [0, 1, LAYERS]


def test_where_no_number_can_be_planned_it_is_said_why():
    few = held_out(SERVER.matched(skewed_loads()), None)
    with pytest.raises(BadInput, match=r"none of 0 replicas per GPU can be planned: 192 GPUs, but 128 experts"):
        planned_arms("craft", (0,), few, SERVER, Topology(192, 24))


@pytest.mark.parametrize("wrong", [-1, 2.5, True, float("nan"), "4", None])
def test_numbers_of_replicas_are_whole(wrong):
    with pytest.raises(BadInput, match="replicas per GPU must be whole numbers of at least 0, got "):
        planned_arms("craft", (0, wrong), SPLIT, SERVER, TOPOLOGY)


def test_unknown_planners_are_refused():
    with pytest.raises(BadInput, match="planner 'best' is unknown"):
        planned_arms("best", (0,), SPLIT, SERVER, TOPOLOGY)


def test_planners_that_can_plan_for_step_time_with_the_slots_of_the_server():
    options = serving_options(PlanningOptions(planner="craftc"), SPLIT.planned, SERVER, TOPOLOGY)
    assert options.objective == "step-time"
    assert options.tokens_per_slot == tokens_per_slot(SERVER, SPLIT.planned, TOPOLOGY) > 0
    others = PlanningOptions(planner="eplb")
    assert serving_options(others, SPLIT.planned, SERVER, TOPOLOGY) is others


def test_a_budget_of_replicas_per_gpu_is_called_as_asked():
    assert replicas_budget("auto", 3).text == "auto"
    assert replicas_budget("3", 3).kind == "replicas_per_gpu"


def test_passes_are_told(craft):
    seen: list[str] = []
    planned_arms("craft", (1, 2), SPLIT, SERVER, TOPOLOGY, seen.append)
    assert seen.count("estimate_benefit") == 1
    assert seen.count("allocate_replicas") == 3
