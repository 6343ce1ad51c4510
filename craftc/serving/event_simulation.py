"""A server of lockstep data-parallel ranks under Poisson arrivals, step by step: what queues do to latency.

In every step all ranks run one forward together. Requests go to the ranks in turn. On its rank a request waits, first
in, first out, for one of the rank's slots in the KV cache, then for the rank's prefill, which works on one chunk of one
request per step. The step of its last chunk yields its first token, every later step one more; with the last token the
slot is free.

All requests are equally long, so a rank finishes them in the order in which it takes them, and the step in which a
request starts is known as soon as it arrives: it is the latest of the next step, the step after the prefill of the
request before it on its rank, and the step after the last token of the request whose slot it inherits. The simulation
only has to keep time, and it jumps over steps in which nothing starts, ends or arrives.

Axes: I requests by arrival, B moments between two steps at which something starts, ends or arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from heapq import heappop, heappush

import numpy as np

from craftc.errors import BadInput, Unsupported
from craftc.serving.step_table import StepTable

_FEWEST_COUNTED = 10_000
"""Requests that figures are taken from, at least: then the standard deviation of goodput over seeds was about 1% at
most, for 8 ranks of 6 and of 90 slots."""
_WARM_UP_TURNS, _COUNTED_TURNS = 2, 3
"""Times that the server fills and empties all of its slots, before figures are taken and while they are: an empty
server has its ranks in step, which exaggerates what imbalance costs."""
_MOST_REQUESTS = 10_000_000
"""Requests of the largest simulation that is tried: memory and minutes."""
_LONGEST_PAUSE = 1e9
"""Mean seconds between arrivals, as a multiple of a request's seconds, beyond which clock times lose precision."""
_KEEPS_UP = 0.97
"""Least requests finished per request offered: below it queues grow for as long as the simulation lasts."""
_PRECISION = 0.002
"""Relative width of the last interval of the search for the goodput."""
_WIDENING = 1.25
"""Factor between rates while the search looks for an interval; its square, fourth power and so on if that fails."""
_LOWEST = 1e-6
"""Share of the rate at saturation below which the search gives up."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a server and the requests that they serve, all of the same length."""

    ranks: int
    """Data-parallel ranks, at least 1."""
    slots: int
    """Requests whose KV cache fits on one rank, at least 1."""
    chunks: int
    """Steps in which a request is prefilled, at least 1."""
    output: int
    """Tokens generated for a request, at least 1; the first one comes with the last step of prefill."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise BadInput(f"event simulation: {field.name} must be a whole number of at least 1, got {value!r}")

    @property
    def used_slots(self) -> int:
        """Slots that can matter: with more of them, a request that has a slot waits for its rank's prefill."""
        return min(self.slots, -(-(self.chunks + self.output - 1) // self.chunks))


@dataclass(frozen=True, eq=False)
class Served:
    """What a server did with requests."""

    first_token_s_I: np.ndarray
    """When every request got its first token, in seconds."""
    finished_s_I: np.ndarray
    """When every request got its last token, in seconds."""
    time_s_B: np.ndarray
    """Moments between steps, in seconds, ascending."""
    steps_B: np.ndarray
    """Steps run until then."""
    prefilling_B: np.ndarray
    """Ranks that prefill in the steps from then on."""
    decoding_B: np.ndarray
    """Requests that decode in the steps from then on."""


@dataclass(frozen=True)
class SimulatedRun:
    """A server under Poisson arrivals, without its warm-up."""

    rate: float
    """Requests offered per second."""
    throughput: float
    """Requests finished per second: like `rate`, give or take chance, unless the server cannot keep up."""
    mean_ttft_s: float
    """Mean time from a request's arrival to its first token, in seconds; if the server cannot keep up, it grows with
    the number of requests."""
    p99_ttft_s: float
    """The same for the 99th percentile of requests, in seconds."""
    mean_itl_s: float
    """Mean time between tokens of a request, in seconds; 0 if requests have one token only."""
    requests: int
    """Requests that the figures are taken from."""
    steps: int
    """Steps meanwhile."""
    prefill_share: float
    """Share of steps in which a rank prefills, in 0..1."""
    decoding: float
    """Requests that decode on all ranks together, mean over time."""


@dataclass(frozen=True)
class GoodputFound:
    """The highest rate that keeps the limits on latency."""

    rate: float
    """Requests per second."""
    run: SimulatedRun
    """The server at that rate."""
    unloaded_ttft_s: float
    """Time to the first token of a request that has the server to itself, in seconds."""


def unloaded_ttft_s(step_table: StepTable, server: Ranks) -> float:
    """Time to the first token of a request that has the server to itself, in seconds."""
    return server.chunks * step_table.seconds(1, 0)


def serve(step_table: StepTable, server: Ranks, arrival_s_I: np.ndarray) -> Served:
    """Serve requests that arrive at these times, which ascend. An idle server starts with the next arrival.

    Raises BadInput if the table is for other ranks.
    """
    if step_table.ranks != server.ranks:
        raise BadInput(
            f"event simulation: the step table is for {step_table.ranks} ranks, the server has {server.ranks}; "
            "make the table for that server"
        )
    chunks, until_finish = server.chunks, server.chunks + server.output - 1
    slots = min(server.used_slots, len(arrival_s_I))
    arrivals = [*arrival_s_I.tolist(), math.inf]
    # The step in which each request starts; before it, as many that are long finished as there are slots.
    starts = [-until_finish] * (server.ranks * slots)
    before_on_rank = server.ranks * (slots - 1)
    step_seconds = lru_cache(maxsize=None)(step_table.seconds)
    change: dict[int, list[int]] = {}
    calendar: list[int] = []
    moments: list[tuple[float, int, int, int]] = []
    arrived = step = prefilling = decoding = 0
    now = arrivals[0]
    while now < math.inf:
        while arrivals[arrived] <= now:
            start = max(step, starts[arrived + before_on_rank] + chunks, starts[arrived] + until_finish)
            starts.append(start)
            arrived += 1
            for when, prefills, decodes in ((start, 1, 0), (start + chunks, -1, 1), (start + until_finish, 0, -1)):
                if when not in change:
                    change[when] = [0, 0]
                    heappush(calendar, when)
                change[when][0] += prefills
                change[when][1] += decodes
        if calendar and calendar[0] == step:
            prefills, decodes = change.pop(heappop(calendar))
            prefilling += prefills
            decoding += decodes
        moments.append((now, step, prefilling, decoding))
        if not calendar:
            now = arrivals[arrived]
            continue
        seconds = step_seconds(prefilling, decoding)
        to_arrival, steps = (arrivals[arrived] - now) / seconds, calendar[0] - step
        if to_arrival < steps:
            steps = max(1, math.ceil(to_arrival))
        step += steps
        now += steps * seconds
    time_s_B, steps_B, prefilling_B, decoding_B = np.array(moments).reshape(-1, 4).T
    start_I = np.array(starts[server.ranks * slots :])
    # Where the server was idle, a number of steps occurs twice: the first time is the end of the step before.
    first_token_s_I = time_s_B[np.searchsorted(steps_B, start_I + chunks)]
    finished_s_I = time_s_B[np.searchsorted(steps_B, start_I + until_finish)]
    return Served(first_token_s_I, finished_s_I, time_s_B, steps_B, prefilling_B, decoding_B)


def simulate_rate(
    step_table: StepTable, server: Ranks, rate: float, requests: int | None = None, seed: int = 0
) -> SimulatedRun:
    """The server under Poisson arrivals of `rate` requests per second.

    requests: requests that figures are taken from, after a warm-up, at least one per rank; None is 10,000 or, if that
    is more, three times as many as the server can hold. The same seed gives the same figures, and the same arrivals,
    only faster or slower, at any rate. Raises BadInput if a number is out of range or the table is for other ranks,
    and Unsupported if too many requests are needed.
    """
    held = server.ranks * server.used_slots
    counted = max(_FEWEST_COUNTED, _COUNTED_TURNS * held) if requests is None else requests
    if type(counted) is not int or counted < server.ranks:
        raise BadInput(f"event simulation: requests must be at least one per rank ({server.ranks}), got {counted!r}")
    slowest = 1 / (_LONGEST_PAUSE * unloaded_ttft_s(step_table, server))
    if not _is_number(rate) or rate < slowest:
        raise BadInput(f"event simulation: rate must be at least {slowest:.3g} requests per second, got {rate!r}")
    first = max(_WARM_UP_TURNS * held, counted // 5)
    last = first + counted
    if last + held > _MOST_REQUESTS:
        raise Unsupported(
            f"event simulation: {last + held} requests would be simulated, more than {_MOST_REQUESTS}: {server.ranks} "
            f"ranks hold {server.used_slots} requests each; simulate fewer ranks or shorter outputs"
        )
    # Arrivals go on while the last counted requests are served.
    gap_I = np.random.default_rng(seed).exponential(size=last + held)
    arrival_s_I = np.cumsum(gap_I) / (gap_I[first:last].mean() * rate)
    return _run(server, rate, arrival_s_I, serve(step_table, server, arrival_s_I), slice(first, last))


def goodput(
    step_table: StepTable, server: Ranks, ttft_limit_s: float, itl_limit_s: float | None = None, seed: int = 0
) -> GoodputFound:
    """The highest rate, within 0.2%, with which the server keeps up and whose mean times keep the limits.

    ttft_limit_s: seconds from arrival to the first token, mean over requests; itl_limit_s: seconds between tokens,
    None is no limit. Raises BadInput if a limit cannot be kept even by an idle server, or as `simulate_rate`.
    """
    unloaded = unloaded_ttft_s(step_table, server)
    _check_limit("time to the first token", ttft_limit_s, unloaded)
    if itl_limit_s is not None and server.output > 1:
        _check_limit("time between tokens", itl_limit_s, step_table.seconds(0, 1))
    tried: dict[float, SimulatedRun] = {}

    def kept(rate: float) -> bool:
        run = tried[rate] = simulate_rate(step_table, server, rate, seed=seed)
        in_time = run.mean_ttft_s <= ttft_limit_s and (itl_limit_s is None or run.mean_itl_s <= itl_limit_s)
        return in_time and run.throughput >= _KEEPS_UP * rate

    saturated = low = high = _saturated_rate(step_table, server)
    factor = _WIDENING
    if kept(saturated):
        while kept(high := high * factor):
            low, factor = high, factor**2
    else:
        while not kept(low := low / factor):
            high, factor = low, factor**2
            if low < _LOWEST * saturated:
                raise BadInput(
                    f"event simulation: even {low:.3g} requests per second break the limits: mean time to the first "
                    f"token {tried[low].mean_ttft_s:.6g} s (limit {ttft_limit_s:.6g} s, idle server {unloaded:.6g} s), "
                    f"between tokens {tried[low].mean_itl_s:.6g} s (limit {itl_limit_s}); allow more"
                )
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    return GoodputFound(low, tried[low], unloaded)


def _run(server: Ranks, rate: float, arrival_s_I: np.ndarray, served: Served, counted: slice) -> SimulatedRun:
    """Figures of the counted requests, and of the time in which as many finish after the warm-up."""
    ttft_s_I = (served.first_token_s_I - arrival_s_I)[counted]
    decode_s_I = (served.finished_s_I - served.first_token_s_I)[counted]
    begin, end = np.sort(served.finished_s_I[: counted.stop])[[counted.start - 1, -1]]
    meanwhile_B = (served.time_s_B >= begin) & (served.time_s_B <= end)
    seconds = np.diff(served.time_s_B[meanwhile_B])
    steps = np.diff(served.steps_B[meanwhile_B])
    return SimulatedRun(
        rate=rate,
        throughput=len(ttft_s_I) / float(end - begin),
        mean_ttft_s=float(ttft_s_I.mean()),
        p99_ttft_s=float(np.quantile(ttft_s_I, 0.99)),
        mean_itl_s=float(decode_s_I.mean()) / max(1, server.output - 1),
        requests=len(ttft_s_I),
        steps=int(steps.sum()),
        prefill_share=float(steps @ served.prefilling_B[meanwhile_B][:-1] / (steps.sum() * server.ranks)),
        decoding=float(seconds @ served.decoding_B[meanwhile_B][:-1] / seconds.sum()),
    )


def _saturated_rate(step_table: StepTable, server: Ranks) -> float:
    """About the most requests per second: where the search for the goodput starts."""
    prefill_share = min(1.0, server.slots * server.chunks / (server.chunks + server.output - 1))
    prefilling = server.ranks * prefill_share
    seconds = step_table.seconds(max(1, round(prefilling)), prefilling * (server.output - 1) / server.chunks)
    return prefilling / (server.chunks * seconds)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _check_limit(what: str, limit_s: float, idle_s: float) -> None:
    if not _is_number(limit_s):
        raise BadInput(f"event simulation: the limit on {what} must be a finite number of seconds, got {limit_s!r}")
    if limit_s < idle_s:
        raise BadInput(
            f"event simulation: the limit on {what}, {limit_s:.6g} s, is below what one request takes on an idle "
            f"server, {idle_s:.6g} s; allow more"
        )
