"""Steps weighed for the worst workload, and what the plan then says of its objective."""

import pytest

from craftc.errors import BadInput
from craftc.passes.base import Pipeline
from craftc.passes.planning.weigh_workloads import WeighWorkloads
from craftc.plans.file import parse_plan, plan_bytes
from craftc.report.plan_report import comparison_table
from tests.passes.planning.compilations import PLANNING, compilation, random_loads

LOADS = random_loads(step_names=("prefill",) * 5 + ("decode",))


def planned(start, *before):
    return Pipeline((*before, *PLANNING.passes)).run(start).plan


def objectives(plan):
    return {row.planner: row.objective for row in plan.estimate.planners}


def test_the_plan_states_its_worst_workload_beside_those_of_the_baselines():
    plan = planned(compilation(loads=LOADS, objective="worst-workload"), WeighWorkloads())
    stated = objectives(plan)
    assert set(stated) == {"contiguous", "placement", "eplb", "craft", "craftc"}
    assert stated["craftc"] > stated["contiguous"]
    assert "worst workload" in comparison_table(plan).splitlines()[0]
    assert parse_plan(plan_bytes(plan)) == plan


def test_a_plan_for_balancedness_says_nothing_more():
    plan = planned(compilation(loads=LOADS))
    assert set(objectives(plan).values()) == {None}
    assert b"objective" not in plan_bytes(plan)


def test_steps_without_names_are_refused():
    with pytest.raises(BadInput, match="give loads with step_names"):
        planned(compilation(objective="worst-workload"), WeighWorkloads())
