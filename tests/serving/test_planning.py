"""Plans for a server: the budget that goodput chooses, what they are planned for, and the worth that they state."""

from __future__ import annotations

from dataclasses import replace

import pytest

import craftc
from craftc.budget import parse_budget
from craftc.errors import BadInput, Infeasible, Unsupported
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.file import parse_plan, plan_bytes
from craftc.serving.arm import worth
from craftc.serving.arms import baseline_arms
from craftc.serving.goodput_curve import goodput_curve
from craftc.serving.held_out import HeldOut
from craftc.serving.planning import chosen_budget, plan_for, with_goodput
from craftc.serving.simulate import simulate
from tests.serving.small_server import TOPOLOGY, cluster_of, even_loads, plan_of, server_of, skewed_loads

LOADS, SERVER = skewed_loads(1.0), server_of()
BALANCED = PlanningOptions(planner="craft")


def test_auto_is_what_the_curve_chooses():
    plan = craftc.plan(LOADS, TOPOLOGY, "auto", serving=SERVER, options=BALANCED)
    request = PlanningRequest(TOPOLOGY, parse_budget("auto"), BALANCED)
    chosen, curve = chosen_budget(SERVER, request, LOADS)
    assert curve is not None
    assert curve.chosen == goodput_curve(LOADS, TOPOLOGY, SERVER, "craft").chosen > 0
    assert chosen.budget.amount == curve.chosen
    assert plan.budget.requested == "auto"
    assert plan.replicas == curve.chosen * TOPOLOGY.gpus


def test_equal_loads_get_no_replicas():
    assert craftc.plan(even_loads(), TOPOLOGY, "auto", serving=SERVER, options=BALANCED).replicas == 0


def test_where_the_most_replicas_tried_are_chosen_more_are_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("craftc.serving.planning.REPLICAS", (0, 1))
    request = PlanningRequest(TOPOLOGY, parse_budget("auto"), BALANCED)
    _, curve = chosen_budget(SERVER, request, LOADS)
    assert curve is not None
    assert [point.replicas_per_gpu for point in curve.points][:3] == [0, 1, 2]
    assert curve.chosen < curve.points[-1].replicas_per_gpu


def test_a_stated_budget_stays():
    request = PlanningRequest(TOPOLOGY, parse_budget("1replicas/gpu"), BALANCED)
    assert chosen_budget(SERVER, request, LOADS) == (request, None)


def test_by_default_a_plan_for_a_server_is_for_step_time():
    plan = plan_for(SERVER, LOADS, TOPOLOGY, parse_budget("1replicas/gpu"))
    assert plan.provenance.objective == "step-time"
    assert plan.provenance.tokens_per_slot > 0
    asked = craftc.plan(LOADS, TOPOLOGY, "1replicas/gpu", serving=SERVER, options=PlanningOptions())
    assert asked.provenance.objective == "balancedness"


def test_the_stated_worth_is_that_of_plan_and_baselines_on_the_same_loads():
    plan = craftc.plan(LOADS, TOPOLOGY, "2replicas/gpu", serving=SERVER, options=BALANCED)
    assert plan.estimate is not None
    stated = plan.estimate.goodput
    assert stated is not None
    own = simulate(plan, LOADS, SERVER)
    matched = SERVER.matched(LOADS)
    none, eplb = map(worth, baseline_arms(HeldOut(matched, matched), SERVER, TOPOLOGY))
    assert stated.requests_per_s == own.goodput
    assert stated.over_none == pytest.approx(own.goodput / none.goodput)
    assert stated.over_eplb == (pytest.approx(own.goodput / eplb.goodput) if eplb.goodput else None)
    assert stated.kv_lost == pytest.approx(1 - own.kv_bytes / none.kv_bytes)
    assert stated.fingerprint == f"sha256:{SERVER.cluster.fingerprint}"
    assert parse_plan(plan_bytes(plan)) == plan


def test_without_a_server_nothing_is_stated():
    plan = plan_of("1replicas/gpu", LOADS)
    assert plan.estimate is not None
    assert plan.estimate.goodput is None
    assert b'"goodput"' not in plan_bytes(plan)


def test_sizes_and_memory_that_do_not_fit_are_refused():
    other = plan_of("0B", LOADS, expert_bytes=1024)
    with pytest.raises(BadInput, match="1024 bytes, the model's config"):
        with_goodput(other, LOADS, SERVER)
    small = server_of(cluster_of(chip__hbm_gib=0.5))
    with pytest.raises(Infeasible, match="no KV cache"):
        with_goodput(plan_of("0B", LOADS), LOADS, small)


def test_auto_is_not_about_the_worst_workload():
    named = replace(LOADS, step_names=tuple(f"w{step % 2}" for step in range(LOADS.steps)))
    options = PlanningOptions(objective="worst-workload")
    with pytest.raises(Unsupported, match="worst workload"):
        craftc.plan(named, TOPOLOGY, "auto", serving=SERVER, options=options)
