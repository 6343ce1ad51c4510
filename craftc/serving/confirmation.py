"""Goodput within latency limits, by event simulation: what queues and few slots do to the closed form.

`sync` means the same as in the closed form: in that share of the steps in which ranks prefill, all of them do so
together. So the clock of the simulation runs by steps of which that share has been gathered, and a request's own steps
of prefill are as long as gathered ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from craftc.errors import BadInput
from craftc.serving.arm import Arm
from craftc.serving.event_simulation import Ranks, goodput, unloaded_ttft_s
from craftc.serving.saturation import prefill_seconds, saturation

_TTFT_FACTOR = 4.0
"""Default limit on the time to the first token: this many times what it takes without waiting and without replicas."""


@dataclass(frozen=True)
class Confirmation:
    """The highest rate of Poisson arrivals that keeps the latency limits."""

    goodput: float
    """Requests per second."""
    ttft_s: float
    """Mean time to the first token at that rate, in seconds."""
    itl_s: float
    """Mean time between tokens at that rate, in seconds."""
    against_closed_form: float
    """Goodput / goodput of the closed form - 1."""


def ttft_limit(none: Arm) -> float:
    """Longest mean time to the first token: the workload's, or four times what it takes on `none` without waiting.

    none: the arm without replicas. Raises BadInput if the workload's is below that time itself.
    """
    stated, unloaded = none.times.server.workload.ttft_limit_s, prefill_seconds(none.times)
    if stated is None:
        return _TTFT_FACTOR * unloaded
    if stated < unloaded:
        raise BadInput(
            f"the limit of {stated:g} s on the time to the first token is below {unloaded:.3g} s, which a request "
            f"takes without waiting and without replicas: allow more, or shorten the prompt or the chunk"
        )
    return stated


def confirmed(arm: Arm, ttft_limit_s: float, seed: int = 0) -> Confirmation | None:
    """What the event simulation says of an arm; None if it serves nothing, or only decodes: nothing waits to prefill.

    Where even an idle server breaks a limit, goodput is 0 and the times are those of an idle server.
    """
    work, requests = arm.times.server.workload, arm.requests
    closed = saturation(arm.times, requests).rate
    if work.phase == "decode" or closed == 0:
        return None
    output = 1 if work.phase == "prefill" else work.output
    server = Ranks(arm.times.ranks, requests, work.chunks, output)
    table = arm.times.table(arm.times.ranks * requests)
    idle_s = prefill_seconds(arm.times)
    gathered_s = max(0.0, idle_s - unloaded_ttft_s(table, server))
    try:
        found = goodput(table, server, ttft_limit_s - gathered_s, work.itl_limit_s, seed)
    except BadInput:
        return Confirmation(0.0, idle_s, table.seconds(0, 1), -1.0)
    return Confirmation(found.rate, found.run.mean_ttft_s + gathered_s, found.run.mean_itl_s, found.rate / closed - 1)
