"""Will balancing help at all? One sentence or two, before any table."""

from __future__ import annotations

from craftc.report.simulated_arms import SimulatedArm, SimulatedArms, replicas_words
from craftc.serving.workload import Workload

_HARDLY = 1.02
"""Goodput of perfect balance over that without replicas, below which balancing is not worth the trouble."""
_EVEN = 1.05
"""Mean of max / mean GPU load, below which loads count as even."""
_SAME = 0.98
"""Part of the experts' time that perfect balance leaves, if tokens do not decide it."""
_BINDING = {
    "KV": "the KV cache",
    "network": "the network",
    "experts": "expert computation",
    "attention": "attention",
    "memory": "memory",
    "latency": "the limit on the time between tokens",
}


def balancing_answer(arms: SimulatedArms, workload: Workload) -> str:
    """Whether balancing helps, by the ceiling, what binds, and how much of it replicas reach."""
    gain, binds = arms.against_none(arms.ceiling), _BINDING[arms.none.worth.binds]
    if gain is None:
        return f"Balancing decides here: without replicas nothing is served ({binds} binds).{_reached(arms)}"
    if gain < _HARDLY:
        return (
            f"Balancing hardly helps: even perfect balance at no memory would serve {gain:.2f}x the requests of "
            f"placement without replicas; {binds} binds.{_why_not(arms, workload)}{_reached(arms)}"
        )
    if _none_is_best(arms):
        return (
            f"Balancing would help, but replicas do not pay: perfect balance at no memory would serve {gain:.2f}x the "
            f"requests of placement without replicas ({binds} binds), but none of the numbers tried gains more than 1%."
            f"{_slots_decide(arms, workload)}{_eplb_gains(arms)}"
        )
    return (
        f"Balancing helps: perfect balance at no memory would serve {gain:.2f}x the requests of placement without "
        f"replicas ({binds} binds).{_reached(arms)}"
    )


def _reached(arms: SimulatedArms) -> str:
    """What the best arm reaches of it."""
    best, reached = arms.best, arms.against_none(arms.best)
    if _none_is_best(arms):
        return " The best choice is no replicas: none of the numbers tried gains more than 1%."
    if best.asked == 0:
        return ""
    if reached is None:
        return "" if best.worth.goodput == 0 else f" {_placed(best)} serves {best.worth.goodput:.3g} requests/s."
    return f" {_placed(best)} reaches {reached:.2f}x."


def _eplb_gains(arms: SimulatedArms) -> str:
    """That EPLB's replicas pay where the planner's do not: it is made for something else than what binds."""
    gain = arms.against_none(arms.eplb)
    return f" EPLB as published reaches {gain:.2f}x." if gain is not None and gain >= _HARDLY else ""


def _none_is_best(arms: SimulatedArms) -> bool:
    """Whether no replicas were chosen among several numbers of them."""
    return arms.best.asked == 0 and any(arm.name == arms.best.name and arm is not arms.best for arm in arms.rows)


def _placed(arm: SimulatedArm) -> str:
    return arm.words if arm.asked is not None else f"{arm.name} ({replicas_words(arm.worth.replicas_per_gpu)})"


def _why_not(arms: SimulatedArms, workload: Workload) -> str:
    if arms.none.worth.mean_peak < _EVEN:
        return f" Placement alone is even already: the fullest GPU has {arms.none.worth.mean_peak:.2f}x the mean."
    return _slots_decide(arms, workload)


def _slots_decide(arms: SimulatedArms, workload: Workload) -> str:
    """In decode: where even perfect balance leaves the experts' time as it is, their weights are what takes it."""
    experts, balanced = arms.none.worth.parts.experts, arms.ceiling.worth.parts.experts
    replicated = arms.best.worth.replicas_per_gpu > 0
    if workload.phase != "decode" or replicated or arms.none.worth.mean_peak < _EVEN or balanced < _SAME * experts:
        return ""
    return (
        " With so few tokens per GPU and step, experts take as long as their weights take to read: the number of "
        "slots on the fullest GPU decides, not its tokens, and replicas add slots."
    )
