from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from craftc.backend.options import compile_options
from craftc.budget import parse_budget
from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology

PLANNING = {"gpus": 8, "budget": "25%"}


def test_planning_options_are_kept():
    options = compile_options(PLANNING | {"nodes": 2, "loads": "loads.npz", "inner": "aot_eager", "strict": True}, None)
    assert options.plan == PlanningRequest(Topology(8, 2), parse_budget("25%"))
    assert (options.loads, options.inner, options.strict) == (Path("loads.npz"), "aot_eager", True)


def test_a_plan_needs_nothing_else():
    options = compile_options({"plan": "plan.json"}, None)
    assert options.plan == Path("plan.json")
    assert options.inner == "inductor"


def test_how_to_plan_is_what_the_python_api_takes():
    quick = PlanningOptions(objective="step-time", shares="lp", tokens_per_slot=200.0)
    options = compile_options(PLANNING | {"planning": quick}, None)
    assert options.plan == PlanningRequest(Topology(8), parse_budget("25%"), quick)


def test_loads_may_be_values():
    loads = LoadProfile.from_counts(np.ones((1, 2, 4), dtype=np.int64))
    assert compile_options(PLANNING | {"loads": loads}, None).loads is loads


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "needs options"),
        ({}, "needs options"),
        (PLANNING | {"gpu": 4, "bugdet": "1%"}, "knows no option gpu, bugdet; it has plan, gpus"),
        ({"gpus": 8}, "needs budget to plan"),
        ({"budget": "25%"}, "needs gpus to plan"),
        ({"inner": "eager"}, "needs gpus and budget to plan"),
        ({"plan": "plan.json", "gpus": 8, "loads": "x"}, "so drop gpus, loads"),
        ({"plan": "plan.json", "planning": PlanningOptions()}, "so drop planning"),
        (PLANNING | {"planning": "step-time"}, "option planning must be a craftc.PlanningOptions"),
        (PLANNING | {"loads": "x.npz", "profile_calls": 3}, "exclude each other"),
        (PLANNING | {"gpus": "8"}, "option gpus must be a whole number of at least 1, got '8'"),
        (PLANNING | {"gpus": True}, "option gpus must be"),
        (PLANNING | {"gpus": 0}, "option gpus must be"),
        (PLANNING | {"profile_calls": 0}, "option profile_calls must be"),
        (PLANNING | {"nodes": 3}, "divides 8"),
        (PLANNING | {"budget": "8G"}, "8G"),
        (PLANNING | {"budget": 8}, "option budget must be a string"),
        (PLANNING | {"inner": "nonsense"}, "option inner must be"),
        (PLANNING | {"inner": "craftc"}, "option inner must be"),
        (PLANNING | {"strict": 1}, "option strict must be True or False"),
        (PLANNING | {"group": "gloo"}, "option group must be a process group"),
        ({"plan": 3}, "option plan must be"),
    ],
)
def test_mistakes_get_one_line(options, said):
    with pytest.raises(BadInput) as caught:
        compile_options(options, None)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mode_is_refused():
    with pytest.raises(BadInput, match="knows no mode 'max-autotune'"):
        compile_options(None, "max-autotune")
