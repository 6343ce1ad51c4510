"""A placement on a server: what is measured of it, what it is worth, and what binds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.serving.arm import Arm, balanced, measured_arm, worth
from craftc.serving.memory import fullest_gpu_bytes
from craftc.serving.workload import Workload
from craftc.solvers.problem import Placement
from craftc.solvers.replay import replay
from craftc.topology import Topology
from tests.serving.small_server import EXPERT_BYTES, LAYERS, TOPOLOGY, cluster_of, even_loads, server_of, skewed_loads

PLAIN: Placement = tuple((2 * gpu, 2 * gpu + 1) for gpu in range(16))
LOADS = skewed_loads(1.0)


def arm_of(placement: Placement = PLAIN, workload: Workload | None = None, **figures: Any) -> Arm:
    return measured_arm("arm", [placement] * LAYERS, LOADS, server_of(cluster_of(**figures), None, workload), TOPOLOGY)


def test_an_arm_says_what_its_placement_is():
    placement = ((*PLAIN[0], 5), (*PLAIN[1], 7), *PLAIN[2:])
    arm = arm_of(placement)
    assert arm.replicas_per_gpu == 2 * LAYERS / 16
    assert arm.expert_bytes == 3 * LAYERS * EXPERT_BYTES == fullest_gpu_bytes(server_of(), TOPOLOGY, [placement] * 4)
    assert arm.balancedness == pytest.approx(replay(LOADS.counts_SLE, [placement] * LAYERS).mean())
    load_SLG = LOADS.counts_SLE.reshape(LOADS.steps, LAYERS, 16, 2).sum(axis=3)
    assert arm_of().mean_peak == pytest.approx((load_SLG.max(axis=2) / load_SLG.mean(axis=2)).mean())
    assert arm.mean_peak < arm_of().mean_peak


def test_a_batch_is_in_flight_if_the_cache_holds_it():
    held = arm_of(workload=Workload(1024, 128, phase="decode")).requests
    assert 8 < held < 100
    assert arm_of(workload=Workload(1024, 128, phase="decode", batch=1)).requests == 8
    assert arm_of(workload=Workload(1024, 128, phase="decode", batch=100)).requests == held


def test_the_same_placement_on_another_server_is_not_measured_again():
    faster = server_of(cluster_of(network__nic_gbit_per_s=400))
    moved = arm_of().on(faster)
    again = arm_of(network__nic_gbit_per_s=400)
    assert worth(moved) == worth(again)
    assert worth(moved) != worth(arm_of())


def test_what_it_is_worth_is_that_of_saturation_and_its_memory():
    arm = arm_of()
    gained = worth(arm)
    assert gained.requests == arm.requests == arm.cache.requests
    assert gained.kv_bytes == arm.cache.bytes_per_gpu
    assert gained.ttft_s > gained.itl_s > 0
    assert gained.parts.total == pytest.approx(gained.itl_s)


def test_a_row_without_kv_cache_says_memory_and_serves_nothing():
    full = worth(arm_of(chip__hbm_gib=0.5))
    assert (full.goodput, full.requests, full.binds, full.parts.total) == (0, 0, "memory", 0)
    assert full.kv_bytes < 0
    assert full.ttft_s > 0


def test_a_limit_that_no_number_of_requests_keeps_is_latency():
    limited = worth(arm_of(workload=Workload(1024, 128, itl_limit_s=1e-6)))
    assert (limited.goodput, limited.binds) == (0, "latency")
    assert limited.requests > 0


FAST_NETWORK = {"network__nic_gbit_per_s": 1e6, "network__all_to_all_latency_ms": 0}


@pytest.mark.parametrize(
    ("figures", "binds"),
    [
        ({"network__nic_gbit_per_s": 1}, "network"),
        ({**FAST_NETWORK, "chip__expert_efficiency": 0.001}, "experts"),
        ({**FAST_NETWORK, "chip__dense_efficiency": 0.001}, "attention"),
    ],
)
def test_what_binds_is_the_part_of_which_more_gains_most(figures, binds):
    assert worth(arm_of(**figures)).binds == binds


def test_where_steps_hardly_grow_with_requests_the_cache_binds():
    assert worth(arm_of(workload=Workload(1024, 128, phase="decode"), chip__hbm_gib=0.6)).binds == "KV"


def test_a_batch_that_is_asked_for_is_not_bound_by_the_cache():
    work = Workload(1024, 128, phase="decode", batch=1)
    assert worth(arm_of(workload=work)).binds != "KV"
    asked_for_too_much = worth(arm_of(workload=replace(work, batch=10**6), chip__hbm_gib=0.6))
    assert asked_for_too_much == worth(arm_of(workload=replace(work, batch=None), chip__hbm_gib=0.6))
    assert asked_for_too_much.binds == "KV"


def test_the_ceiling_is_perfect_balance_at_the_same_memory():
    arm = arm_of()
    ceiling, own = worth(balanced(arm)), worth(arm)
    assert (ceiling.balancedness, ceiling.mean_peak) == (1, 1)
    assert ceiling.kv_bytes == own.kv_bytes
    peaks = balanced(arm).times.peaks
    assert all((peak_PL == 1).all() for peak_PL in (peaks.gpu_PL, peaks.nic_PL, peaks.node_PL))
    assert ceiling.goodput > own.goodput
    even = measured_arm("even", [PLAIN] * LAYERS, even_loads(), server_of(), TOPOLOGY)
    assert worth(balanced(even)).goodput == pytest.approx(worth(even).goodput, rel=0.02)


BETTER = {
    "chip.hbm_gib": (0.5, 4),
    "chip.hbm_tb_per_s": (0.5, 20),
    "chip.peak_tflops.bfloat16": (50, 5000),
    "node.link_gb_per_s": (10, 2000),
    "network.nic_gbit_per_s": (10, 3000),
    "network.efficiency": (0.1, 1),
    "network.overlap": (0, 1),
    "server.memory_fraction": (0.4, 1),
    "chip.expert_efficiency": (0.05, 1),
}
MEASURED = {phase: arm_of(workload=Workload(1024, 128, phase=phase)) for phase in ("mixed", "prefill", "decode")}


@pytest.mark.parametrize("phase", MEASURED)
@pytest.mark.parametrize("path", BETTER)
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_better_hardware_never_lowers_goodput(path, phase, data):
    low, high = sorted(data.draw(st.tuples(*[st.floats(*BETTER[path])] * 2)))
    arm, name = MEASURED[phase], path.replace(".", "__")
    worse, better = (
        worth(arm.on(server_of(cluster_of(**{name: value}), workload=arm.times.server.workload)))
        for value in (low, high)
    )
    assert worse.goodput <= better.goodput * (1 + 1e-9)
    assert worse.requests <= better.requests


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(8)), st.permutations(range(8)))
def test_gpus_of_a_node_that_each_have_a_card_may_change_places(first, second):
    moved = (*(PLAIN[gpu] for gpu in first), *(PLAIN[8 + gpu] for gpu in second))
    assert_worth_the_same(moved, network__gpus_per_nic=1)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.booleans(), min_size=8, max_size=8))
def test_gpus_of_one_card_may_change_places(swapped):
    pairs = [PLAIN[2 * nic : 2 * nic + 2] for nic in range(8)]
    moved = tuple(gpu for pair, swap in zip(pairs, swapped, strict=True) for gpu in (pair[::-1] if swap else pair))
    assert_worth_the_same(moved, network__gpus_per_nic=2)


def assert_worth_the_same(moved: Placement, **figures: Any) -> None:
    one, other = (worth(arm_of(placement, **figures)) for placement in (PLAIN, moved))
    assert other.goodput == pytest.approx(one.goodput, rel=1e-12)
    assert other.mean_peak == pytest.approx(one.mean_peak, rel=1e-12)
    assert other.binds == one.binds


def test_on_one_node_there_is_no_network():
    eight = tuple(tuple(range(4 * gpu, 4 * gpu + 4)) for gpu in range(8))
    arm = measured_arm("arm", [eight] * LAYERS, LOADS, server_of(cluster_of(chip__hbm_gib=2)), Topology(8))
    gained = worth(arm)
    assert gained.parts.all_to_all == 0 < gained.goodput
    assert gained.binds != "network"
    part = measured_arm(
        "arm",
        [(tuple(range(32)),)] * LAYERS,
        LOADS,
        server_of(cluster_of(chip__hbm_gib=8, server__tensor_parallel=1)),
        Topology(1),
    )
    assert worth(part).parts.all_to_all == 0 < worth(part).goodput


def test_layers_without_loads_count_in_memory_and_time():
    loads = skewed_loads(1.0, layers=LAYERS - 1)
    short = measured_arm("arm", [PLAIN] * (LAYERS - 1), loads, server_of(), TOPOLOGY)
    assert short.expert_bytes == arm_of().expert_bytes
    assert short.replicas_per_gpu == 0
    assert worth(short).parts.experts == pytest.approx(worth(arm_of()).parts.experts, rel=0.2)


def test_the_same_loads_give_the_same_bytes():
    one, other = (arm_of() for _ in range(2))
    assert worth(one) == worth(other)
    assert np.array_equal(one.times.peaks.gpu_PL, other.times.peaks.gpu_PL)
