"""The ways in: values in, a compilation out, and what was asked for reaches every pass."""

from __future__ import annotations

import pytest

from craftc.budget import parse_budget
from craftc.errors import BadInput, Infeasible
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.pipelines import (
    analysed,
    optimizing,
    placed_within,
    planned,
    planning,
    profiled,
    rewritten,
    run_on_model,
)
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology
from tests.golden.model import build_model, calibration_inputs, example_inputs
from tests.passes.planning.compilations import random_loads

LAYERS = tuple(MoELayer(f"layers.{n}", n, 16, 100, 2) for n in range(3))
INPUTS = WorkloadInputs(example_inputs(), calibration_inputs)


def request(budget: str = "25%", **options) -> PlanningRequest:
    return PlanningRequest(Topology(4), parse_budget(budget), PlanningOptions(**options))


def names(pipeline) -> list[str]:
    return [each.name for each in pipeline.passes]


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_what_is_asked_for_is_what_is_planned(effort: str):
    asked = request(effort=effort, solver="cbc", expert_groups=2)
    done = planned(asked, random_loads(), LAYERS)
    assert done.request is asked
    assert (done.problem.effort, done.problem.solver, done.problem.groups) == (effort, "cbc", 2)
    assert done.plan.groups == 2
    assert done.plan.provenance.solver.startswith("cbc")


def test_options_choose_the_passes():
    usual = names(planning(request()))
    assert usual[:3] == ["match_loads", "resolve_budget", "pose_problem"]
    assert usual[-1] == "cross_validate"
    old = planned(request(), random_loads(), LAYERS).plan
    for asked, more, fewer in (
        (request(objective="worst-workload"), {"weigh_workloads"}, set()),
        (request(cross_validate=False), set(), {"validate_curves"}),
        (request(shares="lp"), {"choose_shares"}, set()),
        (request(current_plan=old), {"replan_replicas"}, {"place_replicas", "find_phases", "cross_validate"}),
    ):
        passes = set(names(planning(asked)))
        assert (passes - set(usual), set(usual) - passes) == (more, fewer)


def test_an_unknown_planner_is_refused_before_anything_runs():
    with pytest.raises(BadInput, match="'best' is unknown"):
        planning(request(planner="best"))


def test_every_stage_starts_where_the_one_before_ended():
    model = build_model()
    found = analysed(model, INPUTS)
    assert [timing.name for timing in found.timings] == ["trace", "find_moe_layers"]
    measured = profiled(model, INPUTS, ProfileLoads(max_steps=2))
    assert measured.layers == found.layers
    assert measured.loads.steps == 2
    plan = planned(request(), measured.loads, measured.layers, model=model).plan
    assert plan.provenance.model is not None
    done = rewritten(model, INPUTS, plan)
    assert done.plan is plan
    assert done.verification.max_abs_difference


def test_all_of_it_in_one_pipeline_stops_anywhere():
    asked = request()
    whole = optimizing(asked, ProfileLoads(max_steps=2))
    assert names(whole) == [
        "trace",
        "find_moe_layers",
        "profile_loads",
        *names(planning(asked)),
        "rewrite_experts",
        "verify_rewrite",
    ]
    assert str(whole).splitlines()[0] == str(asked)
    stopped = run_on_model(whole.until("pose_problem"), build_model(), INPUTS)
    assert stopped.knows("problem")
    assert not stopped.knows("curves")
    given = run_on_model(optimizing(asked, None).until("match_loads"), build_model(), INPUTS, stopped.loads)
    assert given.loads is stopped.loads


def bytes_of(placements) -> int:
    """Bytes of replicas."""
    return 100 * (sum(len(gpu) for placement in placements for gpu in placement) - 3 * 16)


@pytest.mark.parametrize("planner", ["craft", "craftc"])
@pytest.mark.parametrize("cross_validate", [True, False])
def test_several_budgets_are_placed_from_one_estimate(planner: str, cross_validate: bool):
    budgets = [0, 400, 800, 1200]
    asked = request("1200B", planner=planner, cross_validate=cross_validate)
    seen: list[str] = []
    placed = placed_within(asked, random_loads(), LAYERS, budgets, on_pass=seen.append)
    assert [bytes_of(placements) <= budget for placements, budget in zip(placed, budgets, strict=True)] == [True] * 4
    assert bytes_of(placed[0]) == 0 < bytes_of(placed[1]) < bytes_of(placed[-1])
    assert seen.count("estimate_benefit") == 1
    assert seen.count("allocate_replicas") == len(budgets)
    plan = planned(asked, random_loads(), LAYERS).plan
    assert placed[-1] == tuple(layer.placement for layer in plan.layers)


def test_of_crafts_curves_every_budget_is_what_it_is_alone():
    budgets = [300, 900]
    together = placed_within(request("900B", planner="craft"), random_loads(), LAYERS, budgets)
    alone = [planned(request(f"{budget}B", planner="craft"), random_loads(), LAYERS).plan for budget in budgets]
    assert together == [tuple(layer.placement for layer in plan.layers) for plan in alone]
    assert placed_within(request("900B", planner="craft"), random_loads(), LAYERS, []) == []


def test_a_budget_that_a_planner_cannot_do_with_is_refused():
    odd = tuple(MoELayer(f"layers.{n}", n, 15, 100, 2) for n in range(3))
    with pytest.raises(Infeasible, match="planner eplb: 15 experts and 4 GPUs need at least 1 replica"):
        placed_within(request("0B", planner="eplb"), random_loads(experts=15), odd, [0])
    with pytest.raises(BadInput, match="'best' is unknown"):
        placed_within(request(planner="best"), random_loads(), LAYERS, [0])
