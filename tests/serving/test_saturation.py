"""The closed form: by hand in simple cases, and against the event simulation where many requests are in flight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.serving.event_simulation import Ranks, simulate_rate
from craftc.serving.peaks import measure_peaks
from craftc.serving.saturation import Saturation, prefill_seconds, saturation
from craftc.serving.step_time import StepTimes
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import LAYERS, TOP_K, cluster_of, server_of, skewed_counts

PLACEMENT = tuple((2 * gpu, 2 * gpu + 1) for gpu in range(16))
PEAKS = measure_peaks(skewed_counts(1.0), [PLACEMENT] * LAYERS, (TOP_K,) * LAYERS, 2, 8)


def times_of(workload: Workload, parallel: int = 8, **figures: Any) -> StepTimes:
    cluster = cluster_of(server__tensor_parallel=parallel, **figures)
    return StepTimes(server_of(cluster, workload=workload), Topology(16, 2), PEAKS)


def test_in_prefill_all_ranks_prefill_in_every_step():
    times = times_of(Workload(1000, 100, 400, "prefill"))
    step_s = times.parts(np.array([2]), 0.0).total_K[0]
    reached = saturation(times, 5)
    assert reached.rate == pytest.approx(2 / (3 * step_s))
    assert (reached.itl_s, reached.prefill_share) == (0, 1)


def test_in_decode_every_rank_yields_a_token_of_every_request():
    times = times_of(Workload(1000, 100, 400, "decode"))
    step_s = times.parts(np.array([0]), 7.0).total_K[0]
    reached = saturation(times, 7)
    assert reached.rate == pytest.approx(2 * 7 / (100 * step_s))
    assert reached.itl_s == pytest.approx(step_s)
    assert (reached.requests, reached.prefill_share) == (7, 0)


def test_gathered_ranks_prefill_all_or_none():
    work = Workload(1000, 100, 500)
    times = times_of(work, server__sync=1.0)
    share = 10 * 2 / (2 + 99)
    none_s, _, both_s = times.parts(np.arange(3), share * 99 / 2).total_K
    step_s = share * both_s + (1 - share) * none_s
    reached = saturation(times, 10)
    assert reached.prefill_share == pytest.approx(share)
    assert reached.rate == pytest.approx(2 * share / (2 * step_s))
    assert reached.itl_s == pytest.approx(step_s)
    assert reached.requests == pytest.approx(10)


def test_independent_ranks_prefill_by_chance():
    times = times_of(Workload(1000, 100, 500), server__sync=0.0)
    share = 10 * 2 / (2 + 99)
    seconds_K = times.parts(np.arange(3), share * 99 / 2).total_K
    by_chance = np.array([(1 - share) ** 2, 2 * share * (1 - share), share**2])
    assert saturation(times, 10).rate == pytest.approx(2 * share / (2 * (by_chance @ seconds_K)))


def test_a_request_that_need_not_wait_prefills_as_gathered_as_sync_says():
    work = Workload(1000, 100, 500)
    _, one_s, both_s = times_of(work).parts(np.arange(3), 0.0).total_K
    for sync in (0.0, 0.4, 1.0):
        times = times_of(work, server__sync=sync)
        assert prefill_seconds(times) == pytest.approx(2 * ((1 - sync) * one_s + sync * both_s))


def test_more_requests_than_a_rank_can_prefill_do_not_help():
    times = times_of(Workload(1000, 9, 500))
    enough = (2 + 8) // 2
    most = saturation(times, enough)
    assert most.prefill_share == 1
    assert saturation(times, 1000) == most
    assert saturation(times, enough - 1).rate < most.rate
    assert most.requests == pytest.approx(enough)


@pytest.mark.parametrize("requests", [0, -3, 0.5])
@pytest.mark.parametrize("phase", ["mixed", "prefill", "decode"])
@pytest.mark.parametrize("limit_s", [None, 1.0])
def test_without_a_request_nothing_is_served(requests, phase, limit_s):
    work = Workload(1000, 100, phase=phase, itl_limit_s=limit_s if phase != "prefill" else None)
    reached = saturation(times_of(work), requests)
    assert (reached.rate, reached.itl_s, reached.step.total) == (0, 0, 0)


def test_requests_of_one_token_have_no_time_between_tokens():
    free = saturation(times_of(Workload(1000, 1)), 5)
    assert free.itl_s == 0
    assert saturation(times_of(Workload(1000, 1, itl_limit_s=1e-6)), 5) == free
    prefill = saturation(times_of(Workload(1000, 1, phase="prefill")), 5)
    assert free.rate == pytest.approx(prefill.rate)


@pytest.mark.parametrize("phase", ["mixed", "decode"])
def test_a_limit_between_tokens_is_kept_by_as_many_requests_as_it_allows(phase):
    work = Workload(1000, 200, phase=phase)
    free = saturation(times_of(work), 80)
    for part in (0.5, 0.8, 0.95):
        limit_s = part * free.itl_s
        kept = saturation(times_of(replace(work, itl_limit_s=limit_s)), 80)
        assert kept.itl_s <= limit_s
        if kept.rate > 0:
            one_more = saturation(times_of(work), round(kept.requests) + 1)
            assert one_more.itl_s > limit_s
    assert saturation(times_of(replace(work, itl_limit_s=free.itl_s)), 80) == free
    assert saturation(times_of(replace(work, itl_limit_s=1e-9)), 80).rate == 0


@st.composite
def workloads(draw):
    phase = draw(st.sampled_from(["mixed", "prefill", "decode"]))
    return Workload(draw(st.integers(1, 20000)), draw(st.integers(1, 2000)), draw(st.integers(1, 8192)), phase)


@settings(deadline=None, max_examples=60)
@given(workloads(), st.integers(1, 300), st.floats(0, 1), st.sampled_from([1, 2, 8]))
def test_figures_are_sound_and_parts_add_up(work, requests, sync, parallel):
    reached = saturation(times_of(work, parallel, server__sync=sync), requests)
    figures = [value for value in vars(reached).values() if isinstance(value, float)]
    assert np.isfinite(figures).all()
    assert reached.rate > 0
    assert 0 <= reached.prefill_share <= 1
    assert 0 < reached.requests <= max(1, requests) * (1 + 1e-9)
    step = reached.step
    assert step.total == step.attention + step.experts + step.all_to_all
    assert min(step.attention, step.experts, step.all_to_all) > 0


@settings(deadline=None, max_examples=40)
@given(workloads(), st.integers(1, 200), st.integers(1, 200))
def test_more_requests_in_flight_never_serve_fewer(work, one, other):
    fewer, more = sorted((one, other))
    times = times_of(work)
    assert saturation(times, fewer).rate <= saturation(times, more).rate * (1 + 1e-9)


@pytest.mark.parametrize(
    ("requests", "chunk", "parallel"), [(50, 1024, 8), (50, 1024, 2), (90, 512, 8), (200, 1024, 8), (64, 2048, 1)]
)
def test_the_event_simulation_agrees_within_15_percent_where_50_requests_fit(requests, chunk, parallel):
    """At no sync, which the event simulation does not know, and a load that is never waited for."""
    work = Workload(1024, 128, chunk)
    times = times_of(work, parallel, server__sync=0.0)
    reached: Saturation = saturation(times, requests)
    table = times.table(times.ranks * requests)
    server = Ranks(times.ranks, requests, work.chunks, work.output)
    flooded = simulate_rate(table, server, 3 * reached.rate, requests=times.ranks * 400)
    assert flooded.throughput == pytest.approx(reached.rate, rel=0.15)
    assert flooded.prefill_share == pytest.approx(reached.prefill_share, rel=0.15)
