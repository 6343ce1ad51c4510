"""Slots stay even within a layer and bytes stay even over all layers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.placement.slots import assign_slots, layer_slots
from craftc.topology import Topology

topologies = st.tuples(st.integers(1, 5), st.integers(1, 4)).map(lambda t: Topology(t[0] * t[1], t[1]))


@settings(deadline=None, max_examples=80)
@given(topologies, st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=12))
def test_even_within_a_layer_and_over_layers(topology, layers):
    slots_L, bytes_L = zip(*layers, strict=True)
    slots_LG = assign_slots(slots_L, bytes_L, topology)
    assert slots_LG.sum(axis=1).tolist() == list(slots_L)
    assert (np.ptp(slots_LG, axis=1) <= 1).all()
    assert np.ptp(np.array(bytes_L) @ slots_LG) <= max(bytes_L)


@settings(deadline=None, max_examples=40)
@given(topologies, st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_equal_sizes_and_a_divisible_total_are_exactly_even(topology, slots_L):
    slots_L = [*slots_L, 40 + -(sum(slots_L) + 40) % topology.gpus]
    slots_G = assign_slots(slots_L, [7] * len(slots_L), topology).sum(axis=0)
    assert np.ptp(slots_G) == 0


@settings(deadline=None, max_examples=40)
@given(topologies, st.integers(1, 60))
def test_the_remainder_of_one_layer_is_even_over_nodes(topology, slots):
    for slots_G in (assign_slots([slots], [1], topology)[0], layer_slots([slots], topology)[0]):
        assert slots_G.sum() == slots
        assert np.ptp(slots_G) <= 1
        assert np.ptp(slots_G.reshape(topology.nodes, -1).sum(axis=1)) <= 1


def test_ties_move_on_over_gpus():
    slots_LG = assign_slots([5, 5, 5, 5], [3] * 4, Topology(4, 2))
    assert slots_LG.sum(axis=0).tolist() == [5, 5, 5, 5]


def test_ties_go_to_the_nodes_that_got_fewer():
    slots_LG = assign_slots([1, 2, 2], [1, 1, 1], Topology(4, 2))
    assert slots_LG.reshape(3, 2, 2).sum(axis=2).tolist()[1:] == [[1, 1], [1, 1]]


def test_fewer_slots_than_gpus():
    assert sorted(assign_slots([3], [1], Topology(8, 2))[0].tolist()) == [0, 0, 0, 0, 0, 1, 1, 1]
