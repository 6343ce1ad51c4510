"""Goodput against replicas per GPU, and how many of them pay.

Replicas buy balance and cost KV cache. The curve is flat near its top, so the choice is the smallest number of replicas
within 1% of the best goodput: more KV cache is left for bursts and long contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import Progress
from craftc.planning_options import PlanningOptions
from craftc.serving.arm import Worth, balanced, worth
from craftc.serving.arms import arms_with, baseline_arms, serving_options
from craftc.serving.confirmation import Confirmation, confirmed, ttft_limit
from craftc.serving.held_out import HeldOut, held_out
from craftc.serving.memory import require_cache
from craftc.serving.serving_model import ServingModel
from craftc.solvers.problem import DEFAULT_PLANNER
from craftc.topology import Topology

REPLICAS = (0, 1, 2, 4, 8, 16, 32)
"""Replicas per GPU that are tried by default."""
RULE = "the smallest number of replicas per GPU within 1% of the best goodput"
"""The rule in words, for output."""
_BAND = 0.99
"""Part of the best goodput that is as good as the best."""


@dataclass(frozen=True)
class GoodputPoint:
    """One number of replicas per GPU."""

    replicas_per_gpu: int
    """Replicas per GPU asked for; the plan may have fewer, if others do not gain."""
    worth: Worth
    """What the plan is worth."""
    confirmation: Confirmation | None
    """What the event simulation says, for those points that it was run for."""


@dataclass(frozen=True, eq=False)
class GoodputCurve:
    """Goodput against replicas per GPU."""

    planner: str
    """Name of the planner."""
    points: tuple[GoodputPoint, ...]
    """By replicas per GPU, from 0 or the fewest tried that the planner can do with."""
    chosen: int
    """Replicas per GPU chosen by the rule."""
    band: tuple[int, int]
    """Smallest and largest number tried that is within 1% of the best."""
    ceiling: Worth
    """Perfect balance at no memory: no plan is worth more."""
    eplb: Worth
    """EPLB as published: the same number of replicas in every layer, the smallest that it can place."""
    ttft_limit_s: float
    """Longest mean time to the first token, in seconds: the workload's, or four times that without replicas."""
    rule: str
    """The rule of the choice, in words."""
    judged: HeldOut
    """Steps that were planned from and judged on."""


def goodput_curve(
    loads: LoadProfile,
    topology: Topology,
    server: ServingModel,
    planner: str = DEFAULT_PLANNER,
    replicas: Sequence[int] = REPLICAS,
    *,
    judge: LoadProfile | None = None,
    on_pass: Progress | None = None,
) -> GoodputCurve:
    """Plan with every number of replicas, and say what each plan is worth.

    loads: tokens per step, layer and expert; half of the steps are planned from, the others judge.
    topology: GPUs and nodes.
    server: model, cluster and workload.
    planner: name of the planner.
    replicas: replicas per GPU to try, each at least 0; 0 is always tried.
    judge: loads to judge on, instead of half of the steps; then all of `loads` is planned from.
    on_pass: called with the name of every step as it starts.

    Raises BadInput if loads, model, cluster and topology do not belong together, Infeasible if not even a server
    without replicas has KV cache for a request.
    """
    options = serving_options(PlanningOptions(planner=planner), loads, server, topology)
    return curve_of(loads, topology, server, options, replicas, judge=judge, on_pass=on_pass)


def curve_of(
    loads: LoadProfile,
    topology: Topology,
    server: ServingModel,
    options: PlanningOptions,
    replicas: Sequence[int],
    *,
    judge: LoadProfile | None = None,
    on_pass: Progress | None = None,
) -> GoodputCurve:
    """The curve of plans made with `options`; otherwise like `goodput_curve`."""
    split = held_out(server.matched(loads), None if judge is None else server.matched(judge))
    arms = arms_with(options, replicas, split, server, topology, on_pass)
    if on_pass:
        on_pass("simulate")
    placed_only, eplb = baseline_arms(split, server, topology)
    none = arms.get(0, placed_only)
    require_cache(server, topology, none.expert_bytes)
    worths = {count: worth(arm) for count, arm in arms.items()}
    band = [count for count in arms if worths[count].goodput >= _BAND * max(each.goodput for each in worths.values())]
    limit_s = ttft_limit(none)
    near = {0, *_neighbours(band[0], sorted(arms))}
    points = tuple(
        GoodputPoint(count, worths[count], confirmed(arm, limit_s) if count in near else None)
        for count, arm in arms.items()
    )
    return GoodputCurve(
        options.planner, points, band[0], (band[0], band[-1]), worth(balanced(none)), worth(eplb), limit_s, RULE, split
    )


def _neighbours(chosen: int, counts: list[int]) -> list[int]:
    """`chosen` and the counts beside it."""
    at = counts.index(chosen)
    return counts[max(0, at - 1) : at + 2]
