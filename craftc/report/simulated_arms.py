"""Curves of planners, or plans as they are, as the same rows: what both reports are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from craftc.serving.arm import Worth
from craftc.serving.confirmation import Confirmation
from craftc.serving.goodput_curve import GoodputCurve
from craftc.serving.held_out import HeldOut
from craftc.serving.plan_comparison import ComparedArm, PlanComparison


@dataclass(frozen=True)
class SimulatedArm:
    """One row: a planner with a number of replicas, a plan, or a baseline."""

    name: str
    """Planner, plan file, `none`, `eplb as published` or `ceiling`."""
    asked: int | None
    """Replicas per GPU asked for; None for what is as it is."""
    worth: Worth
    """What it is worth."""
    confirmation: Confirmation | None = None
    """What the event simulation says, if it ran."""
    in_band: bool = False
    """Whether its goodput is within 1% of the best of the planner that decides."""

    @property
    def words(self) -> str:
        """Its name, with its replicas per GPU if these were asked for."""
        if self.asked is None:
            return self.name
        if self.placed == f"{self.asked:.3g}":
            return f"{self.name} with {replicas_words(self.asked)}"
        return f"{self.name} with {self.placed} of {self.asked} replicas per GPU"

    @property
    def placed(self) -> str:
        """Its replicas per GPU as a number to print."""
        return f"{self.worth.replicas_per_gpu:.3g}"


@dataclass(frozen=True, eq=False)
class SimulatedArms:
    """All rows, and which of them say what balancing is worth."""

    rows: tuple[SimulatedArm, ...]
    """All but the ceiling, in the order of the report."""
    none: SimulatedArm
    """Without replicas: what the others are compared with."""
    eplb: SimulatedArm
    """EPLB as published."""
    ceiling: SimulatedArm
    """Perfect balance at no memory."""
    best: SimulatedArm
    """The chosen number of replicas of the first planner, or the plan that is worth most."""
    rule: str | None
    """The rule of the choice, in words; None for plans as they are."""
    ttft_limit_s: float
    """Longest mean time to the first token that the event simulation kept, in seconds."""
    judged: HeldOut
    """Steps that were planned from and judged on."""
    left_out: tuple[str, ...] = ()
    """A line for every planner that cannot do with some number of replicas asked for."""

    def against_none(self, arm: SimulatedArm) -> float | None:
        """Goodput / goodput without replicas, by the closed form; None if there is none."""
        return _ratio(arm.worth.goodput, self.none.worth.goodput)

    def against_eplb(self, arm: SimulatedArm) -> float | None:
        """Goodput / goodput of EPLB as published, by the closed form; None if there is none."""
        return _ratio(arm.worth.goodput, self.eplb.worth.goodput)

    def kv_lost(self, arm: SimulatedArm) -> float:
        """Part of the KV cache without replicas that the arm's replicas take; above 1 if it is not enough."""
        return 1 - arm.worth.kv_bytes / self.none.worth.kv_bytes


def arms_of_curves(
    curves: Sequence[GoodputCurve], asked: Sequence[int], placed_only: ComparedArm | None = None
) -> SimulatedArms:
    """Rows of one curve or more; the first one decides.

    asked: numbers of replicas per GPU that were to be tried.
    placed_only: placement without replicas; needed if no curve begins with it.
    """
    first = curves[0]
    # Both ends of the band are within 1% of the best.
    least = min(point.worth.goodput for point in first.points if point.replicas_per_gpu in first.band)
    planned = {curve.planner: _points(curve, least if curve is first else math.inf) for curve in curves}
    eplb = SimulatedArm("eplb as published", None, first.eplb)
    baseline = () if placed_only is None else (_as_it_is(placed_only, "none"),)
    rows = (*baseline, *(arm for arms in planned.values() for arm in arms), eplb)
    return SimulatedArms(
        rows=rows,
        none=next(iter((*baseline, *(arm for arm in rows if arm.asked == 0)))),
        eplb=eplb,
        ceiling=SimulatedArm("ceiling", None, first.ceiling),
        best=next(arm for arm in planned[first.planner] if arm.asked == first.chosen),
        rule=first.rule,
        ttft_limit_s=first.ttft_limit_s,
        judged=first.judged,
        left_out=tuple(line for curve in curves for line in _left_out(curve, asked)),
    )


def arms_of_plans(comparison: PlanComparison) -> SimulatedArms:
    """Rows of plans as they are."""
    none, eplb = _as_it_is(comparison.none, "none"), _as_it_is(comparison.eplb, "eplb as published")
    plans = {plan.name: _as_it_is(plan, plan.name) for plan in comparison.plans}
    return SimulatedArms(
        rows=(none, *plans.values(), eplb),
        none=none,
        eplb=eplb,
        ceiling=SimulatedArm("ceiling", None, comparison.ceiling),
        best=plans[comparison.best.name],
        rule=None,
        ttft_limit_s=comparison.ttft_limit_s,
        judged=comparison.judged,
    )


def replicas_words(count: float) -> str:
    """A number of replicas per GPU in words."""
    if count == 0:
        return "no replicas"
    return f"{count:.3g} replica{'' if count == 1 else 's'} per GPU"


def _points(curve: GoodputCurve, least: float) -> list[SimulatedArm]:
    return [
        SimulatedArm(
            curve.planner,
            point.replicas_per_gpu,
            point.worth,
            point.confirmation,
            in_band=point.worth.goodput >= least,
        )
        for point in curve.points
    ]


def _left_out(curve: GoodputCurve, asked: Sequence[int]) -> list[str]:
    done = {point.replicas_per_gpu for point in curve.points}
    missing = [str(count) for count in sorted(set(asked) - done)]
    if not missing:
        return []
    return [f"planner {curve.planner} cannot place {', '.join(missing)} replicas per GPU here: left out"]


def _as_it_is(arm: ComparedArm, name: str) -> SimulatedArm:
    return SimulatedArm(name, None, arm.worth, arm.confirmation)


def _ratio(goodput: float, base: float) -> float | None:
    return goodput / base if base > 0 else None
