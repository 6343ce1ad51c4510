"""What the serving model says of measurements.

throughput: the rate at saturation, or the rate of requests if that is lower.
ttft_ms: the time to the first token of a request that need not wait, times how much longer it is at the rate of
requests by event simulation.
itl_ms: the mean step at saturation; below it, the mean step at the rate of requests, times what the event simulation
makes of it (a mean does not see that long steps gather arrivals).
kv_tokens: the KV cache of a rank / its bytes per token.

What the event simulation changes is a pair of factors. They hardly move with the constants of the cluster, so a fit
takes them as given, and is repeated with those of its result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from craftc.serving.arm import Arm
from craftc.serving.event_simulation import Ranks, simulate_rate, unloaded_ttft_s
from craftc.serving.measurements import Measurement
from craftc.serving.saturation import Saturation, mean_step, prefill_seconds, saturation
from craftc.serving.step_time import StepTimes

_MILLI = 1e3


@dataclass(frozen=True)
class QueueFactors:
    """What the event simulation changes at one rate of requests."""

    ttft: float = 1.0
    """Mean time to the first token / that of a request that need not wait, above 0."""
    itl: float = 1.0
    """Mean time between tokens / the one in closed form, above 0."""


def predicted(quantity: str, row: Measurement, arm: Arm, reached: Saturation, factors: QueueFactors) -> float:
    """What the model expects to be measured, in the unit of the column; at most 0 if no request fits the KV cache.

    reached: the arm at saturation.
    """
    if quantity == "kv_tokens":
        return kv_tokens(arm)
    if arm.requests < 1:
        return 0.0
    if quantity == "ttft_ms":
        return _MILLI * prefill_seconds(arm.times) * factors.ttft
    if quantity == "throughput":
        # Compared with its rate, a row that does not keep up would not say how far it is from doing so.
        return reached.rate if row.saturated or row.request_rate is None else min(reached.rate, row.request_rate)
    if row.saturated or row.request_rate is None:
        return _MILLI * reached.itl_s
    return _MILLI * itl_seconds(arm.times, reached, row.request_rate) * factors.itl


def kv_tokens(arm: Arm) -> float:
    """Tokens that the KV cache of a data-parallel rank holds in all; negative by what is missing."""
    server = arm.times.server
    split = min(server.tensor_parallel, server.shape.kv_heads)
    return arm.cache.bytes_per_gpu * split / server.shape.kv_bytes_per_token


def itl_seconds(times: StepTimes, reached: Saturation, rate: float) -> float:
    """Mean time between tokens at `rate` requests per second, in closed form; from saturation on, what it is there.

    A rank prefills in a share rate x chunks x step / ranks of the steps, so the mean step is a fixed point. A request
    that decodes meets the requests that are there on average, and itself.
    """
    work, ranks = times.server.workload, times.ranks
    if rate >= reached.rate:
        return reached.itl_s

    def excess(step_s: float) -> float:
        per_rank = rate * step_s / ranks  # requests that start on a rank in every step
        if work.phase == "decode":
            return mean_step(times, 0.0, per_rank * work.output + 1 / ranks).total - step_s
        return mean_step(times, per_rank * work.chunks, per_rank * (work.output - 1) + 1 / ranks).total - step_s

    if excess(reached.itl_s) >= 0:
        return reached.itl_s
    return float(brentq(excess, 0.0, reached.itl_s, rtol=1e-8))


def queue_factors(row: Measurement, arm: Arm, most_share: float) -> QueueFactors:
    """What the event simulation changes for `row`: nothing where requests are always waiting, or where it has nothing
    to say because no rank prefills.

    most_share: a higher share of the rate at saturation is not simulated, but taken to be this one. Raises Unsupported
    if too many requests would have to be simulated.
    """
    work, times = arm.times.server.workload, arm.times
    if row.saturated or row.request_rate is None or work.phase == "decode" or arm.requests < 1:
        return QueueFactors()
    reached = saturation(times, arm.requests)
    rate = min(row.request_rate, most_share * reached.rate)
    ranks = Ranks(times.ranks, arm.requests, work.chunks, 1 if work.phase == "prefill" else work.output)
    table = times.table(times.ranks * arm.requests)
    run, unloaded = simulate_rate(table, ranks, rate), prefill_seconds(times)
    # As in `confirmation`: a request's own steps of prefill are as long as gathered ones.
    gathered = unloaded - unloaded_ttft_s(table, ranks)
    ttft = (run.mean_ttft_s + gathered) / unloaded
    return QueueFactors(ttft, run.mean_itl_s / itl_seconds(times, reached, rate) if run.mean_itl_s else 1.0)


def log_ratio(value: float, measured: float) -> float:
    """log(value / measured); below a tenth it goes on straight, so that a fit finds its way back from 0 and below.

    measured: above 0.
    """
    ratio, straight = value / measured, 0.1
    return math.log(ratio) if ratio > straight else math.log(straight) + ratio / straight - 1
