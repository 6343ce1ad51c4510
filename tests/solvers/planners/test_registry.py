"""The registry of planners."""

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.registry import PLANNERS, planner_for, planner_named, quick_form
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.planners.uniform import UniformPlanner
from craftc.solvers.problem import DEFAULT_PLANNER, PlanningProblem
from craftc.solvers.search.effort import EFFORTS
from craftc.topology import Topology


def test_an_unknown_planner_is_refused_with_all_names():
    with pytest.raises(BadInput, match="'best' is unknown; choose one of craft, eplb"):
        planner_named("best")


def test_planners_carry_the_name_they_are_registered_under():
    assert planner_named(DEFAULT_PLANNER).name == DEFAULT_PLANNER
    assert all(planner.name == name for name, planner in PLANNERS.items())


def test_the_quick_form_searches_least_and_is_the_same_planner_otherwise():
    problem = PlanningProblem(np.ones((2, 1, 8)), Topology(4, 2), (1,), 0, groups=2)
    assert quick_form(planner_named("craft")) is planner_named("craft")
    assert quick_form(planner_named("craftc")) == StepwisePlanner(effort=EFFORTS["low"])
    assert quick_form(planner_for("craftc", problem)) == GroupedPlanner(StepwisePlanner(effort=EFFORTS["low"]))
    assert quick_form(planner_named("craftc-uniform")) == UniformPlanner(StepwisePlanner(effort=EFFORTS["low"]))


@pytest.mark.parametrize("effort", EFFORTS)
def test_planners_are_as_hard_at_work_as_the_problem_says(effort):
    problem = PlanningProblem(np.ones((2, 1, 8)), Topology(4, 2), (1,), 0, effort=effort)
    assert planner_for("craftc", problem) == StepwisePlanner(effort=EFFORTS[effort])
    assert planner_for("craft", problem) is planner_named("craft")
