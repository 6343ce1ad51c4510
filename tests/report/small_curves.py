"""Curves with numbers that a reader can check by hand, and a real server to print them with."""

from __future__ import annotations

from typing import Any

from craftc.report.simulated_arms import SimulatedArms, arms_of_curves
from craftc.serving.arm import Worth
from craftc.serving.confirmation import Confirmation
from craftc.serving.goodput_curve import RULE, GoodputCurve, GoodputPoint
from craftc.serving.held_out import HeldOut
from craftc.serving.memory import GIB
from craftc.serving.saturation import Seconds
from tests.serving.small_server import skewed_loads

SPLIT = HeldOut(skewed_loads(steps=2, seed=1), skewed_loads(steps=3, seed=2))


def worth_of(goodput: float, replicas: float = 0.0, **fields: Any) -> Worth:
    """A worth with 10 GiB of KV cache less 1 GiB for each replica per GPU."""
    values: dict[str, Any] = {
        "replicas_per_gpu": replicas,
        "kv_bytes": (10 - replicas) * GIB,
        "requests": 12,
        "balancedness": 0.5,
        "mean_peak": 2.0,
        "nic_peak": 1.8,
        "node_peak": 1.2,
        "goodput": goodput,
        "ttft_s": 1.25,
        "itl_s": 0.05,
        "parts": Seconds(0.01, 0.02, 0.03),
        "binds": "network",
        **fields,
    }
    return Worth(**values)


def curve_of(
    goodputs: dict[int, float],
    confirmed: dict[int, tuple[float, float]] | None = None,
    ceiling: Worth | None = None,
    planner: str = "craftc",
) -> GoodputCurve:
    """A curve with these goodputs by replicas per GPU.

    confirmed: goodput by event simulation, and its difference to the closed form.
    """
    runs = {count: Confirmation(rate, 2.5, 0.06, off) for count, (rate, off) in (confirmed or {}).items()}
    points = tuple(
        GoodputPoint(count, worth_of(goodput, count), runs.get(count)) for count, goodput in goodputs.items()
    )
    band = [count for count, goodput in goodputs.items() if goodput >= 0.99 * max(goodputs.values())]
    eplb = worth_of(2.0, 4)
    ceiling = ceiling or worth_of(4.0, balancedness=1.0, mean_peak=1.0)
    return GoodputCurve(planner, points, band[0], (band[0], band[-1]), ceiling, eplb, 5.0, RULE, SPLIT)


def arms_of(*args: Any, **fields: Any) -> SimulatedArms:
    """The rows of such a curve."""
    curve = curve_of(*args, **fields)
    return arms_of_curves([curve], [point.replicas_per_gpu for point in curve.points])
