"""What a given plan is worth: with its own placement, shares and topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from craftc.errors import BadInput
from craftc.serving.arm import worth
from craftc.serving.arms import baseline_arms
from craftc.serving.held_out import HeldOut
from craftc.serving.memory import fullest_gpu_bytes
from craftc.serving.simulate import plan_arm, simulate
from craftc.topology import Topology
from tests.serving.small_server import LAYERS, TOPOLOGY, cluster_of, plan_of, server_of, skewed_loads

PLANNED, JUDGED = skewed_loads(1.0), skewed_loads(1.0, seed=0, steps=5)


def test_a_plan_without_replicas_is_worth_as_much_as_placement_only():
    server = server_of()
    none, _ = baseline_arms(HeldOut(server.matched(PLANNED), server.matched(JUDGED)), server, TOPOLOGY)
    assert simulate(plan_of("0B", PLANNED), JUDGED, server) == worth(none)


def test_replicas_are_counted_and_take_memory():
    server, plan = server_of(), plan_of("2 replicas/gpu", PLANNED)
    gained, none = simulate(plan, JUDGED, server), simulate(plan_of("0B", PLANNED), JUDGED, server)
    assert gained.replicas_per_gpu == 2
    held = fullest_gpu_bytes(server, TOPOLOGY, [layer.placement for layer in plan.layers])
    assert plan_arm("plan", plan, JUDGED, server).expert_bytes == held
    assert gained.kv_bytes < none.kv_bytes
    assert gained.balancedness > none.balancedness


def test_shares_of_the_plan_are_replayed():
    plan = plan_of("2 replicas/gpu", PLANNED)
    layer = plan.layers[0]
    first = {expert: gpu for gpu, held in reversed(list(enumerate(layer.placement))) for expert in held}
    skewed = tuple(tuple(float(first[expert] == gpu) for expert in held) for gpu, held in enumerate(layer.placement))
    other = replace(plan, layers=(replace(layer, shares=skewed), *plan.layers[1:]))
    even, uneven = (simulate(each, JUDGED, server_of()) for each in (plan, other))
    assert uneven.mean_peak > even.mean_peak
    assert uneven.goodput < even.goodput
    assert uneven.kv_bytes == even.kv_bytes


def test_the_topology_is_the_plans():
    eight = plan_of("1 replica/gpu", PLANNED, topology=Topology(8))
    gained = simulate(eight, JUDGED, server_of(cluster_of(chip__hbm_gib=2)))
    assert gained.parts.all_to_all == 0 < gained.goodput
    with pytest.raises(BadInput, match="has 8 GPUs a node, but 16 GPUs on 1 nodes are 16 a node: give --nodes 2"):
        simulate(plan_of("0B", PLANNED, topology=Topology(16)), JUDGED, server_of())


def test_a_plan_that_leaves_no_cache_serves_nothing():
    gained = simulate(plan_of("4 replicas/gpu", PLANNED), JUDGED, server_of(cluster_of(chip__hbm_gib=0.58)))
    assert (gained.goodput, gained.binds) == (0, "memory")


def test_plans_and_loads_of_another_model_are_refused():
    plan, server = plan_of("0B", PLANNED), server_of()
    with pytest.raises(BadInput, match="loads are of 3 layers"):
        simulate(plan, skewed_loads(layers=LAYERS - 1), server)
    with pytest.raises(BadInput, match="loads are of 16 experts"):
        simulate(plan, skewed_loads(experts=16), server)
    with pytest.raises(BadInput, match="has experts of 5 bytes, the model's config says"):
        simulate(plan_of("0B", PLANNED, expert_bytes=5), JUDGED, server)
    fewer = replace(plan, layers=plan.layers[:-1])
    with pytest.raises(BadInput, match=r"loads has 4 layers, the plan has 3 MoE layers"):
        simulate(fewer, JUDGED, server)
