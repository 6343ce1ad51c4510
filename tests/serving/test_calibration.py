"""Calibration gets the constants of a known cluster back from measurements that were simulated on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serving_sets import MODELS, skewed_counts
from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_config import parse_model_config
from craftc.serving.arms import baseline_arms
from craftc.serving.calibration import calibrate
from craftc.serving.cluster import Cluster, Figure, read_cluster
from craftc.serving.event_simulation import Ranks, simulate_rate, unloaded_ttft_s
from craftc.serving.held_out import HeldOut
from craftc.serving.measurements import Measurement
from craftc.serving.predictions import kv_tokens
from craftc.serving.saturation import prefill_seconds, saturation
from craftc.serving.serving_model import ServingModel
from craftc.serving.workload import Workload
from craftc.topology import Topology

FRACTION, BUFFER, LATENCY = "server.memory_fraction", "server.buffer_gib_per_rank", "network.all_to_all_latency_ms"
SYNC, NETWORK, EXPERTS = "server.sync", "network.efficiency", "chip.expert_efficiency"
KEYS = (("none", 0.0), ("eplb", 4.0))


def with_values(cluster: Cluster, values):
    for path, value in values.items():
        cluster = cluster.with_figure(path, Figure(value, "a test"))
    return cluster


@pytest.fixture(scope="module")
def server():
    config = {**MODELS["D"], "num_hidden_layers": 5, "first_k_dense_replace": 1, "n_routed_experts": 64}
    cluster = with_values(read_cluster("a100-80g-efa"), {"server.tensor_parallel": 4})
    return ServingModel(parse_model_config(config), cluster, Workload(output=32))


@pytest.fixture(scope="module")
def arms(server):
    return planned(server, Topology(16, 2))


def planned(server, topology):
    counts_SLE = skewed_counts(4, 64, "skewed", seed=3, tokens=8192)
    loads = [server.matched(LoadProfile.from_counts(part)) for part in (counts_SLE[:8], counts_SLE[8:])]
    return dict(zip(KEYS, baseline_arms(HeldOut(*loads), server, topology), strict=True))


def measured(arms, server, truth, noise=0.0):
    """For every arm saturation, then by event simulation times at 2% and at 30% of its rate."""
    random = np.random.default_rng(0)
    rows = []
    for key, arm in arms.items():
        times, requests = (own := arm.on(replace(server, cluster=truth))).times, own.requests
        reached, work = saturation(times, requests), server.workload
        full = (reached.rate, None, 1e3 * reached.itl_s, kv_tokens(own))
        rows.append((*key, None, *(cell and cell * np.exp(noise * random.standard_normal()) for cell in full)))
        table, ranks = times.table(times.ranks * requests), Ranks(times.ranks, requests, work.chunks, work.output)
        gathered_s = prefill_seconds(times) - unloaded_ttft_s(table, ranks)
        for share in (0.02, 0.3):
            run = simulate_rate(table, ranks, share * reached.rate)
            itl_ms = 1e3 * run.mean_itl_s * np.exp(noise * random.standard_normal()) if share < 0.1 else None
            ttft_ms = 1e3 * (run.mean_ttft_s + gathered_s) * np.exp(noise * random.standard_normal())
            rows.append((*key, share * reached.rate, None, ttft_ms, itl_ms))
    return [Measurement("m.csv", line, *row) for line, row in enumerate(rows, start=2)]


def values_of(calibration, paths):
    figures = dict(calibration.cluster.figures)
    return {path: figures[path].value for path in paths}


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.floats(0.55, 0.85), st.floats(0.4, 1.6), st.floats(0.5, 0.95), st.floats(0.6, 0.95), st.floats(0.2, 0.4))
def test_constants_are_found_again(server, arms, fraction, latency, sync, network, experts):
    truth = {FRACTION: fraction, LATENCY: latency, SYNC: sync, NETWORK: network, EXPERTS: experts}
    rows = measured(arms, server, with_values(server.cluster, truth))
    found = calibrate(rows, arms, server)
    assert found.freed == (FRACTION, LATENCY, SYNC, NETWORK, EXPERTS)
    assert values_of(found, truth) == pytest.approx(truth, rel=0.1)
    assert found.after < 0.02


@pytest.fixture(scope="module")
def noisy(server, arms):
    truth = with_values(server.cluster, {FRACTION: 0.8, LATENCY: 1.4, NETWORK: 0.6})
    rows = measured(arms, server, truth, noise=0.03)
    return rows, calibrate(rows, arms, server)


def test_noise_of_3_percent_leaves_them_within_10(noisy):
    truth = {FRACTION: 0.8, LATENCY: 1.4, NETWORK: 0.6}
    assert values_of(noisy[1], truth) == pytest.approx(truth, rel=0.1)


def test_errors_before_after_and_left_out(noisy):
    rows, found = noisy
    assert found.after < found.left_out < found.before
    rms = np.sqrt(np.mean([np.log(cell.after) ** 2 for cell in found.comparisons]))
    assert found.after == pytest.approx(rms)
    assert [cell.line for cell in found.comparisons] == [2, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6, 7]
    assert found.comparisons[0].measured == rows[0].throughput


def test_fitted_figures_say_where_they_come_from_and_the_rest_stays(server, noisy):
    found = noisy[1]
    before, after = dict(server.cluster.figures), dict(found.cluster.figures)
    assert after[SYNC].source == "calibrated: m.csv, 6 rows, preset 0.8"
    assert {path for path in before if before[path] != after[path]} == set(found.freed)


def test_the_same_measurements_give_the_same_cluster(server, arms, noisy):
    assert calibrate(noisy[0], arms, server) == noisy[1]


def test_no_more_constants_than_rows_but_one(server, arms, noisy):
    assert calibrate(noisy[0][:3], arms, server).freed == (FRACTION, LATENCY)


def test_without_kv_tokens_memory_stays(server, arms, noisy):
    rows = [replace(row, kv_tokens=None) for row in noisy[0]]
    found = calibrate(rows, arms, server)
    assert found.freed == (LATENCY, SYNC, NETWORK, EXPERTS)


def test_fraction_and_buffer_are_told_apart_by_servers_of_different_size(server, arms):
    truth = with_values(server.cluster, {FRACTION: 0.8, BUFFER: 1.5})
    sizes = {("large", 4.0): planned(server, Topology(64, 8))[KEYS[1]], ("small", 4.0): arms[KEYS[1]]}
    held = [kv_tokens(arm.on(replace(server, cluster=truth))) for arm in sizes.values()]
    keys = [("large", 4.0), ("small", 4.0), ("small", 4.0)]
    rows = [Measurement("m.csv", 2, *keys[0], throughput=60.0, kv_tokens=held[0])]
    rows += [Measurement("m.csv", line, *keys[1], throughput=20.0, kv_tokens=held[1]) for line in (3, 4)]
    found = calibrate(rows, sizes, server)
    assert found.freed == (FRACTION, BUFFER)
    assert values_of(found, found.freed) == pytest.approx({FRACTION: 0.8, BUFFER: 1.5}, rel=0.1)


def test_one_node_has_no_network_to_fit(server):
    arms = planned(server, Topology(8, 1))
    found = calibrate(measured(arms, server, server.cluster), arms, server)
    assert LATENCY not in found.freed
    assert NETWORK not in found.freed


def test_what_measurements_say_nothing_about_stays_near_the_preset(server, arms):
    rows = measured(arms, server, server.cluster)
    figures = dict(server.cluster.figures)
    found = calibrate(rows, arms, server)
    assert all(
        value == pytest.approx(figures[path].value, rel=0.02) for path, value in values_of(found, found.freed).items()
    )


def test_a_value_at_its_edge_is_a_warning(server, arms, noisy):
    rows = [replace(row, kv_tokens=row.kv_tokens and 100 * row.kv_tokens) for row in noisy[0]]
    assert any(line.startswith(f"{FRACTION} ended at 1, the most") for line in calibrate(rows, arms, server).warnings)


def test_a_constant_of_0_is_not_fitted_and_says_so(server, arms, noisy):
    free = replace(server, cluster=with_values(server.cluster, {SYNC: 0.0}))
    found = calibrate(noisy[0], arms, free)
    assert SYNC not in found.freed
    assert any(line.startswith(f"{SYNC} is 0") for line in found.warnings)


def test_times_to_the_first_token_near_saturation_are_left_out(server, arms, noisy):
    full = noisy[0][0]
    rows = [*noisy[0][:3], replace(full, line=9, request_rate=0.8 * full.throughput, throughput=None, ttft_ms=9e9)]
    found = calibrate(rows, arms, server)
    assert any("ttft_ms left out on line 9" in line for line in found.warnings)


def test_what_cannot_be_calibrated_is_refused(server, arms, noisy):
    rows = noisy[0]
    with pytest.raises(BadInput, match="2 rows have"):
        calibrate(rows[:2], arms, server)
    with pytest.raises(BadInput, match=r"m\.csv: line 5: no arm eplb with 4 replicas"):
        calibrate(rows, {KEYS[0]: arms[KEYS[0]]}, server)
    with pytest.raises(BadInput, match="lines 2 and 9 contradict"):
        calibrate([*rows, replace(rows[0], line=9, throughput=2 * rows[0].throughput)], arms, server)
    small = replace(server, cluster=with_values(server.cluster, {FRACTION: 0.05}))
    with pytest.raises(BadInput, match="line 2: none with 0 replicas per GPU was measured, but"):
        calibrate([replace(row, kv_tokens=None) for row in rows], arms, small)
