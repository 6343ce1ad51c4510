"""The registry of planners."""

import pytest

from craftc.errors import BadInput
from craftc.solvers.planners import DEFAULT_PLANNER, PLANNERS, planner_named


def test_an_unknown_planner_is_refused_with_all_names():
    with pytest.raises(BadInput, match="'best' is unknown; choose one of craft, eplb"):
        planner_named("best")


def test_planners_carry_the_name_they_are_registered_under():
    assert planner_named(DEFAULT_PLANNER).name == DEFAULT_PLANNER
    assert all(planner.name == name for name, planner in PLANNERS.items())
