"""Greedy placement against the rule written out plainly, and that it always succeeds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.placement.copies import greedy_copies
from craftc.solvers.placement.greedy import greedy_placements
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.replay import gpu_loads, placements_of
from craftc.topology import Topology

problems = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1)
)


def greedy_placement(load_E, copies_E, slots_G, topology):
    return placements_of(greedy_placements(load_E[None], copies_E[None], slots_G[None], topology))[0]


def slow_placement(load_E, copies_E, slots_G, topology):
    """The rule in plain Python (CRAFT, arXiv 2603.28768); None if it gets stuck."""
    held: list[list[int]] = [[] for _ in slots_G]
    loads = [0.0] * len(slots_G)
    for expert in sorted(range(len(load_E)), key=lambda e: (-load_E[e] / copies_E[e], e)):
        for _ in range(copies_E[expert]):
            allowed = [g for g in range(len(held)) if len(held[g]) < slots_G[g] and expert not in held[g]]
            if not allowed:
                return None
            on_node = [0] * topology.nodes
            for gpu, node in enumerate(topology.node_of_gpu_G):
                on_node[node] += expert in held[gpu]
            gpu = min(allowed, key=lambda g: (on_node[topology.node_of_gpu_G[g]], loads[g], g))
            held[gpu].append(expert)
            loads[gpu] += load_E[expert] / copies_E[expert]
    return tuple(tuple(gpu) for gpu in held)


def random_problem(problem):
    seed, experts, per_node, nodes, part = problem
    rng = np.random.default_rng(seed)
    topology = Topology(per_node * nodes, nodes)
    replicas = int(part * experts * (topology.gpus - 1))
    load_E = rng.integers(0, 30, experts)
    copies_E = greedy_copies(load_E[None], np.array([replicas]), topology.gpus)[0]
    return load_E, copies_E, layer_slots([experts + replicas], topology)[0], topology


@settings(deadline=None, max_examples=150)
@given(problems)
def test_follows_the_rule_and_always_succeeds(problem):
    load_E, copies_E, slots_G, topology = random_problem(problem)
    placement = greedy_placement(load_E, copies_E, slots_G, topology)
    assert [len(gpu) for gpu in placement] == slots_G.tolist()
    assert all(len(set(gpu)) == len(gpu) for gpu in placement)
    assert np.bincount(list(itertools.chain(*placement)), minlength=len(load_E)).tolist() == copies_E.tolist()
    plain = slow_placement(load_E, copies_E, slots_G, topology)
    assert plain is None or plain == placement


def test_any_copies_can_be_placed_not_only_greedy_ones():
    stuck = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        topology = Topology(int(rng.integers(2, 7)))
        copies_E = rng.integers(1, topology.gpus + 1, int(rng.integers(2, 9)))
        load_E = rng.integers(0, 30, len(copies_E))
        slots_G = layer_slots([int(copies_E.sum())], topology)[0]
        placement = greedy_placement(load_E, copies_E, slots_G, topology)
        assert [len(gpu) for gpu in placement] == slots_G.tolist()
        assert all(len(set(gpu)) == len(gpu) for gpu in placement)
        assert np.bincount(list(itertools.chain(*placement)), minlength=len(load_E)).tolist() == copies_E.tolist()
        stuck += slow_placement(load_E, copies_E, slots_G, topology) is None
    assert stuck > 5, "the exchange was never needed: the test tests nothing"


def test_a_batch_is_its_rows(monkeypatch):
    rng = np.random.default_rng(3)
    topology = Topology(6, 2)
    load_BE = rng.integers(0, 99, (9, 7))
    replicas_B = np.arange(9)
    copies_BE = greedy_copies(load_BE, replicas_B, 6)
    slots_BG = layer_slots((7 + replicas_B).tolist(), topology)
    alone = [greedy_placement(load_BE[b], copies_BE[b], slots_BG[b], topology) for b in range(9)]
    assert list(placements_of(greedy_placements(load_BE, copies_BE, slots_BG, topology))) == alone
    monkeypatch.setattr("craftc.solvers.placement.greedy._MAX_CELLS", 12)
    assert list(placements_of(greedy_placements(load_BE, copies_BE, slots_BG, topology))) == alone


def test_copies_of_an_expert_go_to_different_nodes_first():
    load_E, copies_E = np.array([40, 1, 1, 1]), np.array([2, 1, 1, 2])
    placement = greedy_placement(load_E, copies_E, np.array([2, 1, 2, 1]), Topology(4, 2))
    assert sum(0 in gpu for gpu in placement[:2]) == 1
    assert sum(0 in gpu for gpu in placement[2:]) == 1


def test_experts_of_equal_load_are_balanced_perfectly():
    load_E = np.full(8, 5)
    placement = greedy_placement(load_E, np.ones(8, dtype=int), np.full(4, 2), Topology(4))
    assert gpu_loads(load_E[None], placement)[0].tolist() == pytest.approx([10] * 4)
