"""--budget auto, from curves to bytes."""

import pytest

from craftc.errors import Unsupported
from craftc.passes.base import Pipeline
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.solvers.allocation.auto_budget import budget_curve
from tests.passes.planning.compilations import compilation


def chosen(planner="craft", budget="auto", **changes):
    return Pipeline((EstimateBenefit(), ChooseBudget())).run(compilation(planner, budget=budget, **changes))


def test_the_budget_is_the_chosen_point_of_the_curve():
    done = chosen()
    expected = budget_curve(done.curves, (100, 100, 100), 8)
    assert done.budget_curve == expected
    assert done.problem.budget_bytes == expected.chosen * 8 * 100
    assert done.budget_bytes > done.problem.budget_bytes  # what it was chosen within
    assert 0 < expected.chosen < len(expected.points) - 1


def test_a_budget_that_was_asked_for_stays():
    done = chosen(budget="4replicas/gpu")
    assert done.problem.budget_bytes == 3200
    assert not done.knows("budget_curve")


def test_every_gpu_gets_an_expert():
    assert chosen(experts=2, sizes=(100,)).problem.budget_bytes >= 6 * 100


@pytest.mark.parametrize("planner", ["eplb", "craft-uniform"])
def test_planners_that_cannot_follow_the_curve_say_so(planner):
    with pytest.raises(Unsupported, match=f"planner {planner} gives every layer the same replicas"):
        chosen(planner)


def test_the_rule_is_about_balancedness():
    with pytest.raises(Unsupported, match="its rule is about balancedness, not step-time"):
        chosen("craftc", objective="step-time")
