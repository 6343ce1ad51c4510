"""Slots where every node holds experts of its own: wishes granted, memory even."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Infeasible
from craftc.solvers.placement.node_slots import assign_node_slots, wanted_extras
from craftc.topology import Topology


def test_further_slots_go_where_copies_are_wanted():
    copies_NX = np.array([[3, 2, 1], [1, 1, 1]])  # 9 slots on 4 GPUs: 2 each and one further
    assert wanted_extras(copies_NX, Topology(4, 2)).tolist() == [1, 0]


def test_a_node_always_has_room_for_its_experts():
    copies_NX = np.array([[1, 1, 1], [1, 1, 1]])  # 6 slots on 4 GPUs: 1 each, and each node needs one further
    assert wanted_extras(copies_NX, Topology(4, 2)).tolist() == [1, 1]


def test_layers_that_all_want_it_on_one_node_get_it_on_different_ones():
    slots_LG, content_LN = assign_node_slots([2, 2], np.array([[2, 0], [2, 0]]), [0, 0], [5, 5], Topology(4, 2))
    assert slots_LG.sum(axis=0).tolist() == [5, 5, 5, 5]
    assert np.take_along_axis(np.array([[2, 0], [2, 0]]), content_LN, axis=1).tolist() == [[2, 0], [0, 2]]
    assert slots_LG.reshape(2, 2, 2).sum(axis=2).tolist() == [[6, 4], [4, 6]]


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.lists(st.sampled_from([10, 10, 10, 7]), min_size=1, max_size=6),
)
def test_even_over_gpus_and_room_on_every_node(shape, own, seed, sizes):
    nodes, per_node = shape
    topology = Topology(nodes * per_node, nodes)
    rng = np.random.default_rng(seed)
    experts = nodes * own
    fewest, extras, least = [], [], []
    for _ in sizes:
        copies_NX = np.ones((nodes, own), dtype=np.int64)
        for _ in range(rng.integers(0, min(topology.gpus, experts * (per_node - 1)) + 1)):
            copies_NX[rng.integers(nodes), rng.integers(own)] += 1
        fewest.append(int(copies_NX.sum()) // topology.gpus)
        least.append(max(0, own - fewest[-1] * per_node))
        extras.append(wanted_extras(copies_NX, topology))
        assert extras[-1].sum() == copies_NX.sum() % topology.gpus
        assert extras[-1].min() >= least[-1]
        assert extras[-1].max() <= per_node
    try:
        slots_LG, content_LN = assign_node_slots(fewest, np.array(extras), least, sizes, topology)
    except Infeasible:
        assert len(set(sizes)) > 1
        assert experts % topology.gpus
        return
    assert (np.sort(content_LN, axis=1) == np.arange(nodes)).all()
    assert (np.ptp(slots_LG, axis=1) <= 1).all()
    assert np.ptp(np.array(sizes) @ slots_LG) <= max(sizes)
    assert slots_LG.sum(axis=1).tolist() == [
        f * topology.gpus + int(e.sum()) for f, e in zip(fewest, extras, strict=True)
    ]
    held_LN = slots_LG.reshape(len(sizes), nodes, per_node).sum(axis=2)
    assert (held_LN >= own).all()
    if len(set(sizes)) == 1 and not slots_LG.sum() % topology.gpus:
        assert np.ptp(slots_LG.sum(axis=0)) == 0
