"""Options of planning are checked where they enter."""

from dataclasses import fields

import pytest

from craftc.budget import parse_budget
from craftc.errors import BadInput
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology
from tests.plans.sample_plans import toy_plan


def test_defaults_and_everything_given():
    assert PlanningOptions().shares == "even"
    assert PlanningOptions(current_plan=toy_plan(), max_move_bytes=0).max_move_bytes == 0
    assert "topology" not in repr(PlanningOptions(current_plan=toy_plan()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "choose auto, highs, cbc"),
        ({"time_limit_s": 0.0}, "above 0 seconds"),
        ({"shares": "some"}, "choose even or lp"),
        ({"effort": "heroic"}, "choose low, medium, high"),
        ({"objective": "speed"}, "choose balancedness, step-time, worst-workload"),
        (
            {"objective": "worst-workload", "current_plan": toy_plan()},
            "replanning and unequal shares support balancedness and step-time only",
        ),
        ({"objective": "step-time", "tokens_per_slot": -1.0}, "at least 0, got -1"),
        ({"objective": "step-time", "tokens_per_slot": float("inf")}, "at least 0, got inf"),
        ({"tokens_per_slot": 5.0}, "count in step time only"),
        ({"max_move_bytes": 5}, "needs the plan in use"),
        ({"current_plan": toy_plan(), "max_move_bytes": -1}, "at least 0 bytes, got -1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        PlanningOptions(**options)


def test_a_request_states_everything_asked_for_once():
    request = PlanningRequest(
        Topology(8, 2), parse_budget(" 25% "), PlanningOptions(effort="high", current_plan=toy_plan())
    )
    assert request.stated["budget"] == "25%"
    assert request.stated["effort"] == "high"
    assert set(request.stated) == {"gpus", "nodes", "budget"} | {
        option.name for option in fields(PlanningOptions) if option.repr
    }
    assert str(request).startswith("request(gpus=8, nodes=2, budget='25%', planner='craftc', solver='auto', ")
    assert "placement" not in str(request)
