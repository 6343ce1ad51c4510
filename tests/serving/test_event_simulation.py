"""The event simulation against a slow one that walks over every request in every step, and against laws of queues."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Unsupported
from craftc.serving.event_simulation import Ranks, goodput, serve, simulate_rate, unloaded_ttft_s
from craftc.serving.step_table import StepTable

SERVER = Ranks(ranks=4, slots=10, chunks=1, output=20)


def table(ranks, idle=0.1, per_prefill=0.2, per_decode=0.001):
    """Seconds that grow evenly with the ranks that prefill and the requests that decode."""
    decodes_D = np.array([0.0, 100.0])
    return StepTable(decodes_D, idle + per_prefill * np.arange(ranks + 1)[:, None] + per_decode * decodes_D)


def constant(ranks, seconds):
    return table(ranks, idle=seconds, per_prefill=0.0, per_decode=0.0)


def slow_serve(step_table, server, arrival_s_I):
    """First and last token of every request: all requests of all ranks, in every step."""
    first, last = np.full(len(arrival_s_I), np.nan), np.full(len(arrival_s_I), np.nan)
    waiting: list[list[int]] = [[] for _ in range(server.ranks)]
    chunks_left: list[dict[int, int]] = [{} for _ in range(server.ranks)]
    tokens_left: list[dict[int, int]] = [{} for _ in range(server.ranks)]
    now, arrived = arrival_s_I[0], 0
    while np.isnan(last).any():
        while arrived < len(arrival_s_I) and arrival_s_I[arrived] <= now:
            waiting[arrived % server.ranks].append(arrived)
            arrived += 1
        for queue, prefills, decodes in zip(waiting, chunks_left, tokens_left, strict=True):
            while queue and len(prefills) + len(decodes) < server.slots:
                prefills[queue.pop(0)] = server.chunks
        prefilling, decoding = sum(map(bool, chunks_left)), sum(map(len, tokens_left))
        if not prefilling and not decoding:
            now = arrival_s_I[arrived]
            continue
        now += step_table.seconds(prefilling, decoding)
        for prefills, decodes in zip(chunks_left, tokens_left, strict=True):
            for request in decodes:
                decodes[request] -= 1
            if prefills:
                request = next(iter(prefills))
                prefills[request] -= 1
                if prefills[request] == 0:
                    del prefills[request]
                    first[request] = now
                    decodes[request] = server.output - 1
            for request in [request for request, tokens in decodes.items() if tokens == 0]:
                del decodes[request]
                last[request] = now
    return first, last


servers = st.builds(Ranks, st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 9))


@settings(deadline=None, max_examples=60)
@given(servers, st.integers(0, 2**32 - 1), st.floats(0.01, 10), st.integers(1, 40))
def test_every_request_gets_its_tokens_when_the_slow_simulation_says(server, seed, mean_gap, requests):
    rng = np.random.default_rng(seed)
    decodes_D = np.array([0.0, 2.0, 7.0])
    step_table = StepTable(decodes_D, rng.uniform(0.1, 2, (server.ranks + 1, 3)))
    arrival_s_I = np.cumsum(rng.exponential(mean_gap, requests))
    first, last = slow_serve(step_table, server, arrival_s_I)
    served = serve(step_table, server, arrival_s_I)
    np.testing.assert_allclose(served.first_token_s_I, first, rtol=0, atol=1e-9)
    np.testing.assert_allclose(served.finished_s_I, last, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(servers, st.lists(st.integers(0, 40), min_size=1, max_size=40))
def test_arrivals_between_two_steps_make_it_into_the_next(server, arrivals):
    """Whole seconds: many arrive at once, and exactly when a step ends."""
    step_table = StepTable(np.array([0.0, 1.0]), 1.0 + np.arange(server.ranks + 1)[:, None] + np.array([0.0, 1.0]))
    arrival_s_I = np.array(sorted(arrivals), dtype=float)
    first, last = slow_serve(step_table, server, arrival_s_I)
    served = serve(step_table, server, arrival_s_I)
    assert served.first_token_s_I.tolist() == first.tolist()
    assert served.finished_s_I.tolist() == last.tolist()


def test_two_requests_by_hand():
    """One rank, one slot, two chunks of 3 s, then two tokens of 1 s; the second request waits for the slot."""
    step_table = StepTable(np.array([0.0]), np.array([[1.0], [3.0]]))
    served = serve(step_table, Ranks(1, 1, 2, 3), np.array([5.0, 6.0]))
    assert served.first_token_s_I.tolist() == [11.0, 19.0]
    assert served.finished_s_I.tolist() == [13.0, 21.0]


def test_slots_beyond_what_prefill_can_fill_change_nothing():
    step_table = table(4)
    most = Ranks(4, 20, 1, 20)
    assert most.used_slots == 20
    plenty = replace(most, slots=10**9)
    assert simulate_rate(step_table, plenty, 3.0, 500) == simulate_rate(step_table, most, 3.0, 500)


@pytest.mark.parametrize(
    "server", [SERVER, Ranks(4, 3, 2, 20), Ranks(2, 1, 1, 5), Ranks(3, 9, 4, 1), Ranks(8, 90, 1, 50)]
)
def test_saturated_throughput_is_the_closed_form(server):
    """With steps of one length: ranks x rho / (chunks x step), rho = slots x chunks / (steps of a request)."""
    step_s = 0.25
    steps = server.chunks + server.output - 1
    rho = min(1.0, server.slots * server.chunks / steps)
    run = simulate_rate(constant(server.ranks, step_s), server, 1e6)
    assert run.throughput == pytest.approx(server.ranks * rho / (server.chunks * step_s), rel=0.005)
    assert run.prefill_share == pytest.approx(rho, rel=0.005)
    assert run.mean_itl_s == pytest.approx(step_s if server.output > 1 else 0.0)


@pytest.mark.parametrize("rate", [0.01, 1.0, 3.0])
def test_below_saturation_all_that_is_offered_is_finished(rate):
    run = simulate_rate(table(4), SERVER, rate)
    assert run.throughput == pytest.approx(rate, rel=0.01)
    assert run.p99_ttft_s >= run.mean_ttft_s >= unloaded_ttft_s(table(4), SERVER)


@pytest.mark.parametrize("rate", [0.5, 3.0, 1e3])
def test_littles_law_holds_for_the_requests_that_decode(rate):
    run = simulate_rate(table(4), SERVER, rate)
    assert run.decoding == pytest.approx(run.throughput * (SERVER.output - 1) * run.mean_itl_s, rel=0.01)


def test_a_request_on_its_own_waits_for_nothing():
    server = replace(SERVER, chunks=3)
    run = simulate_rate(table(4), server, 1e-4)
    assert run.mean_ttft_s == pytest.approx(unloaded_ttft_s(table(4), server), rel=0.01)
    assert run.mean_itl_s == pytest.approx(0.101, rel=0.01)


def test_figures_are_taken_from_a_server_that_is_full_already():
    """A few requests see steps as long as many requests do."""
    server, step_table = Ranks(4, 100, 1, 100), table(4, per_decode=0.002)
    few, many = (simulate_rate(step_table, server, 3.0, requests).mean_itl_s for requests in (50, 3000))
    assert few == pytest.approx(many, rel=0.01)


def test_the_same_seed_gives_the_same_figures():
    assert goodput(table(4), SERVER, 2.0, seed=3) == goodput(table(4), SERVER, 2.0, seed=3)
    assert simulate_rate(table(4), SERVER, 2.0, seed=3) != simulate_rate(table(4), SERVER, 2.0, seed=4)


def test_goodput_keeps_the_limits_and_a_little_more_breaks_them():
    found = goodput(table(4), SERVER, 1.0)
    assert found.unloaded_ttft_s == pytest.approx(0.3)
    assert found.run == simulate_rate(table(4), SERVER, found.rate)
    assert found.run.mean_ttft_s <= 1.0 < simulate_rate(table(4), SERVER, found.rate * 1.01).mean_ttft_s


def test_a_limit_on_time_between_tokens_can_bind():
    free = goodput(table(4), SERVER, 1.0)
    limit = (0.101 + free.run.mean_itl_s) / 2
    bound = goodput(table(4), SERVER, 1.0, itl_limit_s=limit)
    assert bound.rate < 0.9 * free.rate
    assert bound.run.mean_itl_s == pytest.approx(limit, rel=0.02)


def test_however_long_requests_may_wait_the_server_has_to_keep_up():
    found = goodput(constant(4, 0.25), SERVER, 1e9)
    assert found.rate == pytest.approx(4 * 10 / (20 * 0.25), rel=0.04)
    assert goodput(constant(4, 0.25), SERVER, 1e12).rate == found.rate


def test_goodput_does_not_fall_with_more_slots_or_faster_steps():
    slots = [goodput(table(4), replace(SERVER, slots=slots), 1.5).rate for slots in (1, 3, 9)]
    assert all(more >= 0.99 * less for less, more in itertools.pairwise(slots))
    assert slots[-1] > 2 * slots[0]
    slow, middle, fast = (goodput(table(4, 0.1 / x, 0.2 / x, 0.001 / x), SERVER, 1.5).rate for x in (1, 1.2, 1.5))
    assert 1.19 * slow < middle < fast


def test_goodput_scales_with_time():
    """Steps of a tenth and a limit of a tenth: ten times the rate, as arrivals are the same but for the scale."""
    slow, fast = goodput(table(4), SERVER, 2.0), goodput(table(4, 0.01, 0.02, 0.0001), SERVER, 0.2)
    assert fast.rate == pytest.approx(10 * slow.rate, rel=0.004)


def test_one_token_has_no_time_between_tokens():
    found = goodput(table(4), replace(SERVER, output=1), 1.0, itl_limit_s=1e-9)
    assert found.run.mean_itl_s == found.run.decoding == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.29,), "time to the first token, 0.29 s, is below .* idle server, 0.3 s"),
        ((0.3 + 1e-12,), "even .* requests per second break the limits"),
        ((0.0,), "time to the first token, 0 s"),
        ((float("nan"),), "finite number of seconds, got nan"),
        ((None,), "finite number of seconds, got None"),
        ((float("inf"),), "finite number of seconds, got inf"),
        ((1.0, 0.05), "time between tokens, 0.05 s, is below .* 0.101 s"),
        ((1.0, float("nan")), "time between tokens must be a finite number"),
    ],
)
def test_limits_that_no_rate_keeps_are_refused_in_one_line(limits, message):
    with pytest.raises(BadInput, match=message) as error:
        goodput(table(4), SERVER, *limits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-300, None, "3"])
def test_rates_that_cannot_be_simulated_are_refused(rate):
    with pytest.raises(BadInput, match="rate must be at least"):
        simulate_rate(table(4), SERVER, rate)


@pytest.mark.parametrize("field", ["ranks", "slots", "chunks", "output"])
@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), True, "3", None])
def test_numbers_of_a_server_are_checked(field, value):
    with pytest.raises(BadInput, match=f"{field} must be a whole number of at least 1, got"):
        replace(SERVER, **{field: value})


@pytest.mark.parametrize("requests", [0, 3, 10.5])
def test_too_few_requests_are_refused(requests):
    with pytest.raises(BadInput, match=r"at least one per rank \(4\)"):
        simulate_rate(table(4), SERVER, 1.0, requests)


def test_a_table_for_other_ranks_is_refused():
    with pytest.raises(BadInput, match="for 3 ranks, the server has 4"):
        simulate_rate(table(3), SERVER, 1.0)


def test_a_simulation_beyond_reason_is_refused():
    with pytest.raises(Unsupported, match="more than 10000000"):
        simulate_rate(table(4), Ranks(4, 10**6, 1, 10**6), 1.0)
