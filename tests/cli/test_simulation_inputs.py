"""Lists of planners and of replicas, and the GPUs to simulate."""

from __future__ import annotations

import pytest

from craftc.cli.simulation_inputs import DEFAULT_REPLICAS, given_topology, parse_planners, parse_replicas
from craftc.errors import BadInput
from craftc.serving.goodput_curve import REPLICAS
from craftc.topology import Topology


def test_the_default_numbers_of_replicas_are_the_curves():
    assert parse_replicas(DEFAULT_REPLICAS) == parse_replicas(None) == REPLICAS


@pytest.mark.parametrize(
    "text", ["", ",", "1,,2", "1,", "-1", "1,two", "1.5", "1 2", "2,2", "2,02", "²", "1e3", "9" * 30]
)
def test_other_lists_of_replicas_are_refused(text: str):
    with pytest.raises(BadInput, match="--replicas: ") as caught:
        parse_replicas(text)
    assert "\n" not in str(caught.value)


def test_lists_are_read_with_spaces_and_in_any_order():
    assert parse_replicas("8, 0,2") == (0, 2, 8)
    assert parse_planners("eplb, craft") == ("eplb", "craft")
    assert parse_planners(None) == ("craftc",)


@pytest.mark.parametrize("text", ["", "craft,", "craft,craft", "crafty"])
def test_other_lists_of_planners_are_refused(text: str):
    with pytest.raises(BadInput):
        parse_planners(text)


def test_one_node_is_the_default():
    assert given_topology({}, 8, None) == Topology(8)
