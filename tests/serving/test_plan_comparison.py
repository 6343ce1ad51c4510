"""Plans as they are, next to the baselines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from craftc.errors import BadInput, Infeasible
from craftc.loads.load_profile import LoadProfile
from craftc.serving.plan_comparison import PlanComparison, common_topology, compare_plans, placement_only_arm
from craftc.serving.simulate import simulate
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import LAYERS, TOPOLOGY, cluster_of, plan_of, server_of, skewed_loads

LOADS, JUDGE = skewed_loads(1.0), skewed_loads(1.0, steps=5, seed=0)
PLANS = {"none.json": plan_of("0B", LOADS), "two.json": plan_of("2 replicas/gpu", LOADS)}


@pytest.fixture(scope="module")
def comparison() -> PlanComparison:
    return compare_plans(PLANS, LOADS, server_of(), judge=JUDGE)


def test_plans_are_worth_what_they_are_alone(comparison: PlanComparison):
    assert [plan.name for plan in comparison.plans] == list(PLANS)
    assert [plan.worth for plan in comparison.plans] == [simulate(plan, JUDGE, server_of()) for plan in PLANS.values()]
    assert comparison.topology == TOPOLOGY


def test_baselines_are_planned_from_the_loads_and_judged_on_the_others(comparison: PlanComparison):
    assert comparison.none.worth == comparison.plans[0].worth  # CRAFT's placement only, from the same steps
    assert comparison.eplb.worth.replicas_per_gpu == LAYERS
    assert comparison.judged.judged.steps == 5
    assert comparison.warnings == ()
    split = comparison.judged
    assert placement_only_arm(split, server_of(), TOPOLOGY) == comparison.none


def test_no_plan_is_worth_more_than_the_ceiling(comparison: PlanComparison):
    assert comparison.ceiling.goodput > max(plan.worth.goodput for plan in comparison.plans)
    assert comparison.best.worth.goodput == max(plan.worth.goodput for plan in comparison.plans)


def test_the_event_simulation_confirms_all_within_one_limit(comparison: PlanComparison):
    for arm in (comparison.none, comparison.eplb, *comparison.plans):
        assert arm.confirmation is not None
        assert 0 < arm.confirmation.ttft_s <= comparison.ttft_limit_s


@pytest.mark.parametrize("judge_of", [lambda loads: None, lambda loads: loads], ids=["halves", "same"])
def test_plans_made_from_what_judges_them_are_named(judge_of: Callable[[LoadProfile], LoadProfile | None]):
    plans = {**PLANS, "other.json": plan_of("0B", JUDGE)}
    found = compare_plans(plans, LOADS, server_of(workload=Workload(phase="decode", batch=4)), judge=judge_of(LOADS))
    assert [line.partition(" ")[0] for line in found.warnings] == list(PLANS)


def test_the_half_that_judges_is_recognised():
    server = server_of(workload=Workload(phase="decode", batch=4))
    half = compare_plans(PLANS, LOADS, server).judged.judged
    found = compare_plans({"half.json": plan_of("0B", half)}, LOADS, server)
    assert [line.partition(" ")[0] for line in found.warnings] == ["half.json"]


def test_in_decode_nothing_is_confirmed():
    found = compare_plans(PLANS, LOADS, server_of(workload=Workload(phase="decode", batch=4)), judge=JUDGE)
    assert found.none.confirmation is None
    assert found.plans[0].confirmation is None


def test_steps_are_told():
    told: list[str] = []
    server = server_of(workload=Workload(phase="decode", batch=4))
    compare_plans(PLANS, LOADS, server, judge=JUDGE, on_pass=told.append)
    assert told == ["plan baselines", "simulate"]


def test_plans_for_other_gpus_are_refused():
    plans = {**PLANS, "eight.json": plan_of("0B", LOADS, topology=Topology(8))}
    with pytest.raises(BadInput, match=r"none.json is for 16 GPUs on 2 nodes, eight.json for 8 GPUs on 1 node: "):
        compare_plans(plans, LOADS, server_of())
    with pytest.raises(BadInput, match="no plans to compare"):
        common_topology({})


def test_without_memory_nothing_can_be_compared():
    with pytest.raises(Infeasible, match="no KV cache for a request"):
        compare_plans(PLANS, LOADS, server_of(cluster_of(chip__hbm_gib=0.5)))


def test_a_plan_of_another_model_is_named():
    plans = {**PLANS, "tiny.json": plan_of("0B", LOADS, expert_bytes=5)}
    with pytest.raises(BadInput, match=r"^tiny\.json: layer layers\.0 of the plan has experts of 5 bytes"):
        compare_plans(plans, LOADS, server_of(workload=Workload(phase="decode", batch=4)))
