"""The registry of planners."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from craftc.errors import BadInput, Unsupported
from craftc.solvers.planners import registry
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.registry import PLANNERS, planner_for, planner_named
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


def problem_of(**options) -> PlanningProblem:
    return PlanningProblem(np.ones((2, 1, 8)), Topology(4, 2), (1,), 0, **options)


@pytest.mark.parametrize("effort", EFFORTS)
def test_planners_are_as_hard_at_work_as_the_problem_says(effort):
    problem = problem_of(effort=effort)
    searching = GroupedPlanner(StepwisePlanner(effort=EFFORTS[effort]))
    assert planner_for("craftc", problem) == searching
    assert planner_for("craftc-uniform", problem) == UniformPlanner(searching)
    assert planner_for("craft", problem) is planner_named("craft")


@dataclass(frozen=True)
class OtherPlanner(CraftPlanner):
    """A planner that another file could add: it knows an objective, keeps groups, and searches."""

    name: str = "other"
    objectives = frozenset({"balancedness", "step-time"})
    keeps_groups = True

    def at_effort(self, effort):
        return self if effort == "medium" else planner_named("eplb")


@pytest.fixture
def _with_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "PLANNERS", {**PLANNERS, "other": OtherPlanner()})


@pytest.mark.usefixtures("_with_another")
def test_a_planner_is_asked_what_it_can_do():
    assert planner_for("other", problem_of(objective="step-time")).name == "other"
    assert planner_for("other", problem_of(groups=2)).name == "other"
    assert planner_for("other", problem_of(effort="high")).name == "eplb"
    assert planner_for("other-uniform", problem_of(groups=2)).name == "other-uniform"


@pytest.mark.usefixtures("_with_another")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("craft", {"objective": "step-time"}, "planner craft plans for balancedness only: .* choose craftc or other"),
        ("other", {"step_weight_S": np.ones(2)}, "planner other plans for balancedness only: .* choose craftc$"),
        ("craftc-uniform", {"objective": "step-time"}, "planner craftc-uniform plans for balancedness only"),
        ("craft", {"groups": 2}, "planner craft does not keep expert groups on nodes: choose eplb or craftc or other"),
        ("craftc", {"groups": 2, "step_weight_S": np.ones(2)}, "cannot be combined with the objective worst-workload"),
    ],
)
def test_what_it_cannot_do_is_refused_with_those_that_can(name: str, options: dict[str, Any], message: str):
    with pytest.raises(Unsupported, match=message):
        planner_for(name, problem_of(**options))


def test_who_gives_layers_different_counts():
    assert {name: planner.per_layer for name, planner in PLANNERS.items()} == {
        "craft": True,
        "eplb": False,
        "craftc": True,
    }
    assert not planner_named("craft-uniform").per_layer
