"""Copies of an expert go to different nodes where a new name for a GPU is all it takes."""

import itertools
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.placement.node_spread import pairs_on_a_node, spread_over_nodes
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import placement_array, placements_of
from craftc.topology import Topology
from tests.plans.sample_plans import random_placement


def spread(placement, topology):
    return placements_of(spread_over_nodes(placement_array([placement]), topology))[0]


def pairs(placement, topology):
    return pairs_on_a_node(placement_array([placement])[0], topology)


def test_two_copies_on_one_node_are_parted():
    placement = ((0, 1), (0, 2), (3, 4), (5, 6))
    assert pairs(placement, Topology(4, 2)) == 1
    assert pairs(spread(placement, Topology(4, 2)), Topology(4, 2)) == 0


def test_gpus_keep_their_number_of_slots():
    placement = ((0, 1), (0,), (2,), (3, 4))
    assert tuple(map(len, spread(placement, Topology(4, 2)))) == (2, 1, 1, 2)


def test_one_node_or_no_replicas_stay_as_they_are():
    placement = ((0, 1), (0, 2), (3, 4), (5, 6))
    assert spread(placement, Topology(4)) == placement
    single = ((0,), (1,), (2,), (3,))
    assert spread(single, Topology(4, 2)) == single


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from([(4, 2), (6, 2), (6, 3)]), st.integers(0, 12))
def test_contents_stay_and_pairs_never_grow(seed, experts, shape, more):
    topology = Topology(*shape)
    slots = experts + min(more, experts * (topology.gpus - 1))
    placement = random_placement(random.Random(seed), experts, topology.gpus, slots)
    after = spread(placement, topology)
    assert sorted(after) == sorted(placement)
    assert tuple(map(len, after)) == tuple(map(len, placement))
    assert pairs(after, topology) <= pairs(placement, topology)
    assert spread(after, topology) == after


def test_mostly_the_best_of_all_renamings():
    topology, best = Topology(6, 3), 0
    for seed in range(30):
        placement = random_placement(random.Random(seed), 8, 6, 18)
        fewest = min(pairs(renamed, topology) for renamed in itertools.permutations(placement))
        best += pairs(spread(placement, topology), topology) == fewest
    assert best >= 24


def test_layers_are_renamed_on_their_own():
    expert_LGK = np.array([[[0], [0], [1], [2]], [[0], [1], [0], [2]]])
    spread_LGK = spread_over_nodes(expert_LGK, Topology(4, 2))
    assert [pairs_on_a_node(expert_GK, Topology(4, 2)) for expert_GK in spread_LGK] == [0, 0]
    assert spread_LGK[1].tolist() == expert_LGK[1].tolist()


def test_the_planner_spreads_copies_and_keeps_memory_even():
    rng = np.random.default_rng(0)
    counts_SLE = (rng.lognormal(0, 1.2, (1, 3, 16)) * rng.lognormal(0, 0.3, (5, 3, 16)) * 50).astype(np.int64)
    problem = PlanningProblem(counts_SLE, Topology(8, 4), (10, 10, 10), 240)
    placements = planner_named("craftc").place(problem, (8, 9, 7))
    expert_LGK = placement_array(placements)
    copies_LE = [np.bincount(expert_GK[expert_GK >= 0]) for expert_GK in expert_LGK]
    unavoidable = sum(int(np.maximum(copies_E - 4, 0).sum()) for copies_E in copies_LE)
    assert sum(pairs_on_a_node(expert_GK, problem.topology) for expert_GK in expert_LGK) == unavoidable
    assert (expert_LGK >= 0).sum(axis=(0, 2)).tolist() == [9] * 8
