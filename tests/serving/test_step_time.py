"""Seconds of a step: every part by hand on a cluster of round numbers, and what must hold on any.

On the cluster of round numbers a GPU does 1e12 operations and reads 1e12 bytes per second, a link and a network card
move 1e9 bytes per second, and nothing has latency.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.models.attention_shape import WindowCache
from craftc.serving.cluster import Cluster, Figure
from craftc.serving.peaks import Peaks, measure_peaks
from craftc.serving.serving_model import ServingModel
from craftc.serving.step_time import StepParts, StepTimes
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import (
    EXPERT_BYTES,
    LAYERS,
    TOP_K,
    TOPOLOGY,
    cluster_of,
    model_of,
    server_of,
    skewed_counts,
)

PARAMETERS = EXPERT_BYTES // 2
HIDDEN = 2048
ROUND: dict[str, Any] = {
    "chip__hbm_tb_per_s": 1,
    "chip__peak_tflops__bfloat16": 1,
    "chip__expert_efficiency": 1,
    "chip__dense_efficiency": 1,
    "chip__streaming_efficiency": 1,
    "node__link_gb_per_s": 1,
    "network__nic_gbit_per_s": 8,
    "network__efficiency": 1,
    "network__all_to_all_latency_ms": 0,
    "network__gpus_per_nic": 2,
    "server__tensor_parallel": 8,
}
SIX = Figure(6, "a test")
WORK = Workload(1000, 100, chunk=500)


def round_cluster(wire: str | None = None, **figures: Any) -> Cluster:
    return cluster_of(wire=wire, **{**ROUND, **figures})


def peaks_of(gpu: float = 1.0, nic: float = 1.0, slots: float = 2.0, layers: int = LAYERS) -> Peaks:
    """The same peaks in every layer at any number of tokens."""
    gpu_PL, nic_PL, node_PL, slots_PL = (np.full((2, layers), value) for value in (gpu, nic, 1.0, slots))
    return Peaks(np.array([np.inf, 1.0]), gpu_PL, nic_PL, node_PL, slots_PL)


def times_of(
    cluster: Cluster | None = None, peaks: Peaks | None = None, topology: Topology = TOPOLOGY, **shape: Any
) -> StepTimes:
    """Steps on the round cluster; `shape` replaces fields of the model's shape."""
    server = ServingModel(model_of(), cluster or round_cluster(), WORK)
    vars(server)["shape"] = replace(server.shape, **shape)
    return StepTimes(server, topology, peaks or peaks_of())


def step(times: StepTimes, prefilling: int, decodes: float) -> StepParts:
    return times.parts(np.array([prefilling]), decodes)


BARE: dict[str, Any] = {
    "dense_parameters": 1,
    "dense_bytes": 1,
    "score_flops_per_pair": 0,
    "decode_score_flops_per_pair": 0,
    "kv_bytes_per_token": 0,
    "decoder_layers": 1,
}
"""A model without anything that attention takes time for, but for its all-reduce."""


def attention(prefilling: int, decodes: float, cluster: Cluster | None = None, **shape: Any) -> float:
    links = (cluster or round_cluster()).with_figure("node.link_gb_per_s", Figure(1e9, "a test"))
    return float(step(times_of(links, **{**BARE, **shape}), prefilling, decodes).attention_K[0])


def test_dense_weights_take_their_operations_or_their_bytes_on_all_gpus_of_a_rank():
    dense: dict[str, Any] = {"dense_parameters": 8 * 10**9, "dense_bytes": 16 * 10**9}
    assert attention(1, 4.0, **dense) == pytest.approx(2e9 * (500 + 4) / 1e12)
    assert attention(0, 0.5, **dense) == pytest.approx(2e9 / 1e12)
    faster: dict[str, Any] = {"chip__streaming_efficiency": 0.5, "chip__dense_efficiency": 0.25}
    assert attention(1, 4.0, round_cluster(**faster), **dense) == pytest.approx(4 * 2e9 * 504 / 1e12)
    assert attention(0, 0.5, round_cluster(**faster), **dense) == pytest.approx(2 * 2e9 / 1e12)


def test_a_prompt_attends_to_half_of_itself_and_once_per_rank():
    expected = 500 * 500 * 8e9 / 8e12
    assert attention(1, 0.0, score_flops_per_pair=8 * 10**9) == pytest.approx(expected)
    assert attention(2, 0.0, score_flops_per_pair=8 * 10**9) == pytest.approx(expected)
    assert attention(0, 1.0, score_flops_per_pair=8 * 10**9) == pytest.approx(0, abs=1e-9)


def test_a_generated_token_reads_its_cache_or_computes_on_it():
    assert attention(0, 3.0, kv_bytes_per_token=10**6) == pytest.approx(3 * 1050e6 / 1e12)
    assert attention(0, 3.0, kv_bytes_per_token=10**6, kv_heads=4) == pytest.approx(3 * 1050e6 / 4 / 1e12)
    both: dict[str, Any] = {"kv_bytes_per_token": 10**6, "decode_score_flops_per_pair": 8 * 10**7}
    assert attention(0, 3.0, **both) == pytest.approx(3 * 1050 * 1e7 / 1e12)


def test_windows_are_read_and_computed_as_far_as_they_reach():
    window = (WindowCache(200, 10**6, 0),)
    assert attention(0, 2.0, windows=window) == pytest.approx(2 * 200e6 / 1e12)
    assert attention(0, 2.0, windows=(WindowCache(5000, 10**6, 0),)) == pytest.approx(2 * 1050e6 / 1e12)
    scored = (WindowCache(200, 0, 8 * 10**9),)
    assert attention(0, 2.0, windows=scored) == pytest.approx(2 * 200 * 1e9 / 1e12)
    seen = np.minimum(np.arange(1000), 200).mean()
    assert attention(1, 0.0, windows=scored) == pytest.approx(500 * seen * 1e9 / 1e12, rel=1e-3)
    longer = (WindowCache(5000, 0, 8 * 10**9),)
    assert attention(1, 0.0, windows=longer) == pytest.approx(500 * 500 * 1e9 / 1e12)


def test_ranks_reduce_over_their_gpus_twice_per_layer():
    ring = 2 * 7 / 8 * HIDDEN * 2 * (500 + 4)
    bare = {**BARE, "decoder_layers": 3}
    assert step(times_of(**bare), 1, 4.0).attention_K == pytest.approx(2 * 3 * ring / 1e9)
    alone = times_of(round_cluster(server__tensor_parallel=1), **bare)
    assert step(alone, 1, 4.0).attention_K == pytest.approx(0, abs=1e-8)


def test_experts_take_the_operations_of_the_peak_gpu_or_the_bytes_of_its_slots():
    times = times_of(peaks=peaks_of(gpu=1.5, slots=3.0))
    tokens = 2 * 500 + 2 * 4
    by_tokens = LAYERS * tokens * TOP_K / 16 * 1.5 * 2 * PARAMETERS / 1e12
    assert step(times, 2, 4.0).experts_K == pytest.approx(by_tokens)
    assert step(times, 0, 0.5).experts_K == pytest.approx(LAYERS * 3 * EXPERT_BYTES / 1e12)
    slower = times_of(round_cluster(chip__expert_efficiency=0.5, chip__streaming_efficiency=0.25), times.peaks)
    assert step(slower, 2, 4.0).experts_K == pytest.approx(2 * by_tokens)
    assert step(slower, 0, 0.5).experts_K == pytest.approx(4 * LAYERS * 3 * EXPERT_BYTES / 1e12)


def test_layers_without_loads_take_as_long_as_the_others():
    whole, recorded = times_of(), times_of(peaks=peaks_of(layers=3))
    for name in ("experts_K", "all_to_all_K"):
        assert getattr(step(recorded, 1, 2.0), name) == pytest.approx(getattr(step(whole, 1, 2.0), name))


def all_to_all(prefilling: int, decodes: float, cluster: Cluster | None = None, nic: float = 1.0, nodes: int = 2):
    times = times_of(cluster, peaks_of(nic=nic), Topology(8 * nodes, nodes))
    return float(step(times, prefilling, decodes).all_to_all_K[0])


BOTH_WAYS = LAYERS * HIDDEN * (2 + 2) / 1e9
"""Seconds of one token over one card, there and back, in all layers."""


def test_where_all_prefill_the_peak_card_receives_longest():
    received = (2 * 500 + 2 * 4) * 2 / 16 * TOP_K * 1.5
    assert all_to_all(2, 4.0, nic=1.5) == pytest.approx(BOTH_WAYS * received / 2)


def test_where_one_rank_prefills_its_cards_send_longest():
    sent = (500 + 4) * 2 / 8 * TOP_K
    assert all_to_all(1, 4.0, nic=1.5) == pytest.approx(BOTH_WAYS * sent / 2)
    assert all_to_all(1, 4.0, nic=2.5) == pytest.approx(BOTH_WAYS * (500 + 8) * 2 / 16 * TOP_K * 2.5 / 2)


@pytest.mark.parametrize(
    ("parallel", "per_nic", "prefilling", "sent"),
    [(1, 2, 1, 500 + 8), (1, 2, 2, 1000 + 8), (1, 2, 5, 1000 + 8), (2, 2, 3, 504), (4, 1, 2, 504 / 4), (1, 8, 3, 1532)],
)
def test_ranks_that_share_a_card_send_together(parallel, per_nic, prefilling, sent):
    cluster = round_cluster(server__tensor_parallel=parallel, network__gpus_per_nic=per_nic)
    assert all_to_all(prefilling, 4.0, cluster) == pytest.approx(BOTH_WAYS * sent * TOP_K / 2)


def test_of_a_card_that_ranks_share_unevenly_every_gpu_sends_its_part():
    cluster = round_cluster(server__tensor_parallel=2, network__gpus_per_nic=1).with_figure("node.gpus", SIX)
    times = times_of(cluster.with_figure("network.gpus_per_nic", Figure(3, "a test")), topology=Topology(12, 2))
    for prefilling, sent in ((1, 500 + 6), (2, 750 + 6), (6, 750 + 6)):
        assert step(times, prefilling, 4.0).all_to_all_K == pytest.approx(BOTH_WAYS * sent * TOP_K / 2)


def test_one_copy_per_node_in_steps_that_prefill_and_per_expert_in_others():
    expert, node = (round_cluster(wire) for wire in ("expert", "node"))
    copies = 4 * (1 - (3 / 4) ** TOP_K)
    prefill = all_to_all(4, 4.0, expert, nodes=4)
    assert all_to_all(4, 4.0, node, nodes=4) == pytest.approx(prefill * copies / TOP_K)
    assert all_to_all(0, 4.0, node, nodes=4) == all_to_all(0, 4.0, expert, nodes=4) > 0


def test_latency_counts_both_ways_in_every_layer_and_overlap_hides_its_part():
    bare, late = all_to_all(2, 4.0), all_to_all(2, 4.0, round_cluster(network__all_to_all_latency_ms=3))
    assert late - bare == pytest.approx(LAYERS * 2 * 3e-3)
    hidden = round_cluster(network__all_to_all_latency_ms=3, network__overlap=0.75)
    assert all_to_all(2, 4.0, hidden) == pytest.approx(late / 4)
    assert all_to_all(2, 4.0, round_cluster(network__efficiency=0.5)) == pytest.approx(2 * bare)


def test_experts_in_8_bits_are_sent_in_8_bits():
    times = times_of(expert_dtype="float8")
    assert step(times, 2, 4.0).all_to_all_K == pytest.approx(all_to_all(2, 4.0) * 3 / 4)


def test_one_node_has_no_network():
    assert all_to_all(1, 4.0, round_cluster(network__all_to_all_latency_ms=3), nodes=1) == 0


def test_a_step_without_requests_takes_no_time():
    parts = step(times_of(round_cluster(network__all_to_all_latency_ms=3)), 0, 0.0)
    assert (parts.attention_K[0], parts.experts_K[0], parts.all_to_all_K[0], parts.total_K[0]) == (0, 0, 0, 0)


PLACEMENT = tuple((2 * gpu, 2 * gpu + 1) for gpu in range(16))
MEASURED = measure_peaks(skewed_counts(1.0), [PLACEMENT] * LAYERS, (TOP_K,) * LAYERS, 2, 8)
FASTER = {
    "chip.hbm_tb_per_s": (0.01, 100),
    "chip.peak_tflops.bfloat16": (1, 10000),
    "chip.expert_efficiency": (0.01, 1),
    "chip.dense_efficiency": (0.01, 1),
    "chip.streaming_efficiency": (0.01, 1),
    "node.link_gb_per_s": (1, 10000),
    "network.nic_gbit_per_s": (1, 10000),
    "network.efficiency": (0.01, 1),
    "network.overlap": (0, 1),
}


@pytest.mark.parametrize("path", FASTER)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_more_of_anything_never_takes_longer(path, data):
    low, high = sorted(data.draw(st.tuples(*[st.floats(*FASTER[path])] * 2)))
    prefilling, decodes = data.draw(st.integers(0, 2)), data.draw(st.floats(0, 300))
    slow, fast = (
        StepTimes(server_of(cluster_of().with_figure(path, Figure(value, "a test"))), TOPOLOGY, MEASURED)
        for value in (low, high)
    )
    for name in ("attention_K", "experts_K", "all_to_all_K"):
        slower, faster = (getattr(step(times, prefilling, decodes), name)[0] for times in (slow, fast))
        assert faster <= slower * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 500), st.floats(0, 500), st.sampled_from(["expert", "node"]))
def test_more_requests_never_take_less_time(one, other, wire):
    fewer, more = sorted((one, other))
    times = StepTimes(server_of(cluster_of(wire=wire)), TOPOLOGY, MEASURED)
    few, many = (times.parts(np.arange(3), decodes) for decodes in (fewer, more))
    assert (many.total_K >= few.total_K * (1 - 1e-9)).all()
    assert (np.diff(few.total_K[1:]) >= 0).all()
    np.testing.assert_allclose(few.total_K, few.attention_K + few.experts_K + few.all_to_all_K)


@pytest.mark.parametrize("sync", [0.0, 0.3, 1.0])
def test_the_table_mixes_gathered_steps_and_others_as_sync_says(sync):
    times = StepTimes(server_of(cluster_of(server__sync=sync)), TOPOLOGY, MEASURED)
    table = times.table(600.0)
    assert table.ranks == 2
    assert table.decodes_D[-1] == pytest.approx(600)
    for decodes in (0.0, 1.0, 600.0):
        none, one, both = times.parts(np.arange(3), decodes / 2).total_K
        expected = (1 - sync) * one + sync * (none + (both - none) / 2)
        assert table.seconds(1, decodes) == pytest.approx(expected)
        assert table.seconds(2, decodes) == pytest.approx(both)
        assert table.seconds(0, decodes) == pytest.approx(none)


@pytest.mark.parametrize("most", [0, 1, 2, 10**7])
def test_tables_are_sound_for_any_number_of_requests(most):
    table = StepTimes(server_of(), TOPOLOGY, MEASURED).table(most)
    assert np.isfinite(table.seconds_KD).all()
    assert (np.diff(table.decodes_D) > 0).all()
