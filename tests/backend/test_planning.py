"""The backend sees the layers that tracing sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import craftc
from craftc.backend.planning import check_plannable, model_layers, plan_from_counts
from craftc.budget import parse_budget
from craftc.errors import BadInput, Unsupported
from craftc.models.moe_layer import MoELayer
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology
from tests.model_families import FAMILIES, example_inputs


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_layers_are_named_numbered_and_sized_as_inspect_does(family: str):
    model: Any = FAMILIES[family].build()
    found = craftc.inspect(model, example_inputs())
    traced = tuple(replace(layer, router=None, top_k=None) for layer in found.layers)
    assert model_layers(model) == traced


LAYERS = tuple(MoELayer(f"layers.{number}", number, experts=8, expert_bytes=100) for number in range(2))


def request(**how: Any) -> PlanningRequest:
    return PlanningRequest(Topology(4, 2), parse_budget("2replicas/gpu"), PlanningOptions(**how))


@pytest.mark.parametrize("objective", ["balancedness", "step-time"])
def test_counted_calls_are_planned_as_asked_for(objective: str):
    counts_SLE = np.random.default_rng(0).integers(0, 50, (4, 2, 8))
    asked = request(objective=objective, shares="lp")
    check_plannable(asked, LAYERS)
    assert plan_from_counts(asked, LAYERS, counts_SLE).provenance.objective == objective


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"objective": "worst-workload"}, "needs loads with step_names"),
        ({"objective": "step-time", "planner": "eplb"}, "plans for balancedness only"),
        ({"expert_groups": 3}, "do not divide into 3 groups"),
        ({"planner": "magic"}, "planner 'magic' is unknown"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_calls_are_counted(how: dict[str, Any], message: str):
    with pytest.raises((BadInput, Unsupported), match=message):
        check_plannable(request(**how), LAYERS)
