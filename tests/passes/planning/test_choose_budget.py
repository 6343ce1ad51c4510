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
    expected = budget_curve(done.curves, (100, 100, 100), 8, most_bytes=done.budget_bytes)
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


def test_for_step_time_the_curve_is_one_of_step_time():
    done = chosen("craftc", objective="step-time")
    curve = done.budget_curve
    assert curve == budget_curve(done.curves, (100, 100, 100), 8, objective="step-time", most_bytes=done.budget_bytes)
    reached = [point.reached for point in curve.points]
    assert reached == sorted(reached, reverse=True)
    assert reached[-1] >= 1
    assert sum(point.marginal_gain for point in curve.points) == pytest.approx(reached[0] - reached[-1])
    assert 0 < curve.chosen < len(reached) - 1


def test_the_rule_is_not_about_the_worst_workload():
    with pytest.raises(Unsupported, match="about balancedness or step time, not worst-workload"):
        chosen("craftc", objective="worst-workload")
