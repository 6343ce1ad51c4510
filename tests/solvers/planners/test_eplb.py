"""EPLB against its description written out plainly; duplicates are really removed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Infeasible
from craftc.solvers.planners.eplb import (
    EplbPlanner,
    balanced_packing,
    eplb_placements,
    eplb_placements_without_duplicates,
    uniform_replicas,
)
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import placements_of
from craftc.topology import Topology


def slow_packing(weights, packs):
    pack_of, loads, room = [0] * len(weights), [0.0] * packs, [len(weights) // packs] * packs
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        pack = min((p for p in range(packs) if room[p]), key=lambda p: (loads[p], p))
        pack_of[item] = pack
        loads[pack] += weights[item]
        room[pack] -= 1
    return pack_of


def slow_copies(load, replicas):
    copies = [1] * len(load)
    for _ in range(replicas):
        copies[max(range(len(load)), key=lambda e: (load[e] / copies[e], -e))] += 1
    return copies


def slow_eplb(load, replicas, topology, groups):
    """Sorted contents of every GPU."""
    nodes = topology.nodes if topology.nodes > 1 and groups % topology.nodes == 0 else 1
    size = len(load) // groups
    if nodes > 1:
        node_of_group = slow_packing([sum(load[g * size : (g + 1) * size]) for g in range(groups)], nodes)
    else:
        node_of_group = [0] * groups
    contents = []
    for node in range(nodes):
        experts = [e for e in range(len(load)) if node_of_group[e // size] == node]
        copies = slow_copies([load[e] for e in experts], replicas // nodes)
        items = [e for e, count in zip(experts, copies, strict=True) for _ in range(count)]
        weight = {e: load[e] / count for e, count in zip(experts, copies, strict=True)}
        packs = slow_packing([weight[e] for e in items], topology.gpus // nodes)
        contents += [
            sorted(e for e, p in zip(items, packs, strict=True) if p == gpu) for gpu in range(topology.gpus // nodes)
        ]
    return contents


@pytest.mark.parametrize(
    ("experts", "replicas", "topology", "groups"),
    [
        (16, 8, Topology(8), 1),
        (16, 8, Topology(8, 2), 4),
        (24, 8, Topology(8, 4), 8),
        (13, 3, Topology(4), 1),
        (5, 3, Topology(8, 2), 1),
        (12, 0, Topology(4, 2), 2),
    ],
)
def test_equals_its_description(experts, replicas, topology, groups):
    load_LE = np.random.default_rng(experts).lognormal(0, 1.2, (5, experts))
    expert_LGK = eplb_placements(load_LE, replicas, topology, groups)
    for load_E, expert_GK in zip(load_LE.tolist(), expert_LGK, strict=True):
        assert [sorted(gpu) for gpu in expert_GK.tolist()] == slow_eplb(load_E, replicas, topology, groups)


def test_packing_equals_its_description():
    weight_BI = np.random.default_rng(0).integers(0, 9, (20, 12)).astype(float)
    assert balanced_packing(weight_BI, 4).tolist() == [slow_packing(weights, 4) for weights in weight_BI.tolist()]


def test_published_eplb_puts_copies_of_one_expert_on_one_gpu_and_the_planner_never():
    load_LE = np.random.default_rng(1).lognormal(0, 1.5, (30, 64))
    raw = placements_of(eplb_placements(load_LE, 16, Topology(8)))
    repaired = placements_of(eplb_placements_without_duplicates(load_LE, 16, Topology(8)))
    assert any(len(set(gpu)) < len(gpu) for placement in raw for gpu in placement)
    assert not any(len(set(gpu)) < len(gpu) for placement in repaired for gpu in placement)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
def test_duplicates_can_always_be_exchanged_away(seed, experts, per_node, nodes, wish):
    topology = Topology(per_node * nodes, nodes)
    most = experts * (topology.gpus - 1)
    total = min(experts + wish, experts + most) // topology.gpus * topology.gpus
    if total < experts:
        return
    load_LE = np.random.default_rng(seed).lognormal(0, 2, (2, experts))
    for placement in placements_of(eplb_placements_without_duplicates(load_LE, total - experts, topology)):
        assert all(len(set(gpu)) == len(gpu) for gpu in placement)
        assert {expert for gpu in placement for expert in gpu} == set(range(experts))


def test_hierarchical_keeps_groups_within_a_node():
    load_LE = np.random.default_rng(2).lognormal(0, 1.5, (6, 32))
    for expert_LGK in (
        eplb_placements(load_LE, 8, Topology(8, 2), 8),
        eplb_placements_without_duplicates(load_LE, 8, Topology(8, 2), 8),
    ):
        for expert_GK in expert_LGK:
            first, second = (set((expert_GK[half] // 4).ravel().tolist()) for half in (slice(4), slice(4, 8)))
            assert not first & second
            assert len(first) == len(second) == 4


def test_uniform_replicas():
    assert uniform_replicas(256, Topology(64)) == 64
    assert uniform_replicas(60, Topology(8)) == 4
    assert uniform_replicas(8, Topology(16)) == 8
    assert uniform_replicas(8, Topology(1)) == 0


def test_a_budget_too_small_is_refused_with_the_numbers():
    problem = PlanningProblem(np.ones((1, 2, 13)), Topology(4), (10, 10), 50)
    planner = EplbPlanner()
    with pytest.raises(Infeasible, match=r"at least 3 replicas in every layer, 60 bytes, 10 more than the budget"):
        planner.allocate(problem, planner.estimate(problem))


def test_shapes_eplb_cannot_do_are_refused():
    with pytest.raises(BadInput, match="give 3 replicas"):
        eplb_placements(np.ones((1, 13)), 0, Topology(4))
    with pytest.raises(BadInput, match="do not divide into 3 groups"):
        eplb_placements(np.ones((1, 16)), 0, Topology(4), 3)
