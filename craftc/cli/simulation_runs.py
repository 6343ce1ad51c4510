"""The two ways of `craftc simulate`: several numbers of replicas by several planners, and plans as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from craftc.cli.progress import ShownProgress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from craftc.loads.load_profile import LoadProfile
    from craftc.passes.base import Progress
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.report.simulated_arms import SimulatedArms
    from craftc.serving.goodput_curve import GoodputCurve
    from craftc.serving.plan_comparison import ComparedArm
    from craftc.serving.serving_model import ServingModel
    from craftc.topology import Topology


def swept_curves(
    planners: Sequence[str],
    replicas: Sequence[int],
    loads: LoadProfile,
    judge: LoadProfile | None,
    server: ServingModel,
    topology: Topology,
    progress: ShownProgress,
) -> list[GoodputCurve]:
    """A curve for every planner; the first one's limit on the time to the first token holds for all."""
    from craftc.serving.goodput_curve import goodput_curve

    curves: list[GoodputCurve] = []
    for planner in planners:
        progress(f"plan, {planner}")
        curves.append(
            goodput_curve(
                loads, topology, server, planner, replicas, judge=judge, on_pass=_simulating(planner, progress)
            )
        )
        if server.workload.phase != "decode":
            server = replace(server, workload=replace(server.workload, ttft_limit_s=curves[0].ttft_limit_s))
    return curves


def _simulating(planner: str, progress: ShownProgress) -> Progress:
    """Shows when planning ends; its many short steps are not shown."""

    def on_pass(step: str) -> None:
        if step == "simulate":
            progress(f"simulate, {planner}")

    return on_pass


def swept_arms(
    curves: Sequence[GoodputCurve], replicas: Sequence[int], server: ServingModel, topology: Topology
) -> tuple[SimulatedArms, tuple[str, ...]]:
    """Rows of curves, and warnings."""
    from craftc.report.simulated_arms import arms_of_curves

    arms = arms_of_curves(curves, replicas, _without_replicas(curves, server, topology))
    return arms, (*arms.judged.warnings, *arms.left_out)


def compared_arms(
    plans: Mapping[str, ReplicationPlan],
    loads: LoadProfile,
    judge: LoadProfile | None,
    server: ServingModel,
    progress: ShownProgress,
) -> tuple[SimulatedArms, tuple[str, ...]]:
    """Rows of plans as they are, and warnings."""
    from craftc.report.simulated_arms import arms_of_plans
    from craftc.serving.plan_comparison import compare_plans

    comparison = compare_plans(plans, loads, server, judge=judge, on_pass=progress)
    return arms_of_plans(comparison), (*comparison.judged.warnings, *comparison.warnings)


def _without_replicas(curves: Sequence[GoodputCurve], server: ServingModel, topology: Topology) -> ComparedArm | None:
    """Placement only, if none of the planners can do without replicas."""
    from craftc.serving.plan_comparison import placement_only_arm

    if any(point.replicas_per_gpu == 0 for curve in curves for point in curve.points):
        return None
    return placement_only_arm(curves[0].judged, server, topology)
