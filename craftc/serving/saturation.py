"""What a server reaches when requests never run out, in closed form.

A request takes c steps of prefill on its rank, the last of which yields its first token, and output - 1 of decode.
With N requests in flight a rank prefills in a share rho = min(1, N c / (c + output - 1)) of the steps, so requests per
second are ranks x rho / (c x mean step time).
How far ranks prefill in the same steps is `sync`: 1 all together, 0 independently of each other (binomial).

Axes: K ranks that prefill, 0..ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from craftc.serving.step_time import StepTimes


@dataclass(frozen=True)
class Seconds:
    """Mean seconds of a step, part by part; they add up."""

    attention: float
    """Attention, dense and shared parts."""
    experts: float
    """Routed experts."""
    all_to_all: float
    """Network."""

    @property
    def total(self) -> float:
        return self.attention + self.experts + self.all_to_all


@dataclass(frozen=True)
class Saturation:
    """A server that always has requests waiting."""

    rate: float
    """Requests per second; 0 if none fits the KV cache."""
    itl_s: float
    """Mean time between tokens of a request, in seconds; 0 if requests have one token only."""
    prefill_share: float
    """Share of steps in which a rank prefills, in 0..1; below 1, the KV cache limits it."""
    requests: float
    """Requests in flight on a rank."""
    step: Seconds
    """A mean step."""


def saturation(times: StepTimes, requests: float) -> Saturation:
    """The server with room for `requests` requests on every rank; limits on time between tokens are kept."""
    limit = times.server.workload.itl_limit_s
    if limit is None or requests < 1:
        return _saturated(times, requests)
    low, high = 0, int(requests)
    while low < high:  # steps take longer the more requests are in flight
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _saturated(times, middle).itl_s <= limit else (low, middle - 1)
    return _saturated(times, low)


def prefill_seconds(times: StepTimes) -> float:
    """Time to the first token of a request that need not wait: of its own steps of prefill, in a share `sync` of which
    all ranks prefill, in the others it alone."""
    alone_and_all_K = times.parts(np.array([1, times.ranks]), 0.0).total_K
    sync = times.server.cluster.server.sync.value
    return float(times.server.workload.chunks * ((1 - sync) * alone_and_all_K[0] + sync * alone_and_all_K[1]))


def _saturated(times: StepTimes, requests: float) -> Saturation:
    work, ranks = times.server.workload, times.ranks
    if requests < 1:
        return Saturation(0.0, 0.0, 0.0, 0.0, Seconds(0.0, 0.0, 0.0))
    if work.phase == "prefill":
        step = mean_step(times, 1.0, 0.0)
        return Saturation(ranks / (work.chunks * step.total), 0.0, 1.0, 1.0, step)
    if work.phase == "decode":
        step = mean_step(times, 0.0, requests)
        return Saturation(ranks * requests / (work.output * step.total), step.total, 0.0, requests, step)
    steps = work.chunks + work.output - 1
    prefill_share = min(1.0, requests * work.chunks / steps)
    decodes = prefill_share * (work.output - 1) / work.chunks
    step = mean_step(times, prefill_share, decodes)
    return Saturation(
        ranks * prefill_share / (work.chunks * step.total),
        step.total if work.output > 1 else 0.0,
        prefill_share,
        prefill_share * steps / work.chunks,
        step,
    )


def mean_step(times: StepTimes, prefill_share: float, decodes: float) -> Seconds:
    """A mean step in which every rank decodes `decodes` requests and prefills with probability `prefill_share`."""
    ranks, sync = times.ranks, times.server.cluster.server.sync.value
    prefilling_K = np.arange(ranks + 1)
    alone_K = binom.pmf(prefilling_K, ranks, prefill_share)
    together_K = np.zeros(ranks + 1)
    together_K[[0, -1]] = 1 - prefill_share, prefill_share
    weight_K = sync * together_K + (1 - sync) * alone_K
    parts = times.parts(prefilling_K, decodes)
    return Seconds(*(float(weight_K @ part_K) for part_K in (parts.attention_K, parts.experts_K, parts.all_to_all_K)))
