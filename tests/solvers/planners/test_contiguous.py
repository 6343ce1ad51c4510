"""Experts in order, whatever the slots."""

import numpy as np
import pytest

from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.contiguous import contiguous_placement, contiguous_placements
from craftc.solvers.problem import PlanningProblem
from craftc.topology import Topology


def test_experts_in_order():
    assert contiguous_placement(np.array([2, 2, 1, 0])) == ((0, 1), (2, 3), (4,), ())


@pytest.mark.parametrize(("experts", "gpus"), [(8, 4), (7, 3), (2, 4)])
def test_a_layer_is_even_over_gpus_up_to_one(experts: int, gpus: int):
    placement = contiguous_placement(layer_slots([experts], Topology(gpus))[0])
    assert [expert for gpu in placement for expert in gpu] == list(range(experts))
    assert max(map(len, placement)) - min(map(len, placement)) <= 1


def test_layers_take_turns_with_the_odd_slots():
    problem = PlanningProblem(np.ones((1, 2, 3)), Topology(2), expert_bytes_L=(1, 1), budget_bytes=0)
    assert contiguous_placements(problem) == (((0, 1), (2,)), ((0,), (1, 2)))
