"""--budget auto, from curves to bytes."""

import pytest

from craftc.errors import Unsupported
from craftc.passes.base import Pipeline, run_checked
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.solvers.allocation.auto_budget import budget_curve
from tests.passes.planning.compilations import compilation


def chosen(planner="craft", **changes):
    start = compilation(**{"budget_bytes": None, "budget_requested": "auto"} | changes)
    return Pipeline((ResolveBudget(), EstimateBenefit(planner), ChooseBudget(planner))).run(start)[0]


def test_the_budget_is_the_chosen_point_of_the_curve():
    done = chosen()
    expected = budget_curve(done.curves, (100, 100, 100), 8)
    assert done.budget_curve == expected
    assert done.budget_bytes == expected.chosen * 8 * 100
    assert 0 < expected.chosen < len(expected.points) - 1


def test_a_budget_that_was_asked_for_stays():
    done = chosen(budget_requested="4replicas/gpu")
    assert done.budget_bytes == 3200
    assert done.budget_curve is None


def test_every_gpu_gets_an_expert():
    assert chosen(experts=2, sizes=(100,)).budget_bytes >= 6 * 100


@pytest.mark.parametrize("planner", ["eplb", "craft-uniform"])
def test_planners_that_cannot_follow_the_curve_say_so(planner):
    start = chosen()
    with pytest.raises(Unsupported, match=f"planner {planner} gives every layer the same replicas"):
        run_checked(ChooseBudget(planner), start)
