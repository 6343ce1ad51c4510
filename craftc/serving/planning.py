"""Plans for a server: made for what it waits for, with as many replicas as pay in goodput, and their worth stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from craftc.budget import Budget
from craftc.errors import Unsupported
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import recorded_layers
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import Progress
from craftc.passes.compilation import Compilation, updated
from craftc.passes.pipelines import planned
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.replication_plan import PredictedGoodput, ReplicationPlan
from craftc.serving.arm import measured_arm, worth
from craftc.serving.arms import baseline_arms, replicas_budget, serving_options
from craftc.serving.goodput_curve import REPLICAS, GoodputCurve, curve_of
from craftc.serving.held_out import HeldOut
from craftc.serving.memory import require_cache
from craftc.serving.serving_model import ServingModel
from craftc.topology import Topology

if TYPE_CHECKING:  # planning from loads must not import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class PlannedForServer:
    """A plan for a server."""

    compilation: Compilation
    """The plan, with its goodput stated, and what it was made from."""
    curve: GoodputCurve | None
    """What each number of replicas is worth, if the budget was `auto`."""


def planned_for(
    server: ServingModel,
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    *,
    model: nn.Module | None = None,
    on_pass: Progress | None = None,
) -> PlannedForServer:
    """Like `craftc.passes.pipelines.planned`, for a server: budget `auto` is decided by goodput.

    Raises as `planned` and `goodput_curve` do, and Unsupported for budget `auto` with the objective worst-workload.
    """
    request, curve = chosen_budget(server, request, loads, on_pass)
    done = planned(request, loads, layers, model=model, on_pass=on_pass)
    return PlannedForServer(updated(done, plan=with_goodput(done.plan, loads, server)), curve)


def plan_for(
    server: ServingModel,
    loads: LoadProfile,
    topology: Topology,
    budget: Budget,
    layers: Sequence[MoELayer] | None = None,
    options: PlanningOptions | None = None,
    on_pass: Progress | None = None,
) -> ReplicationPlan:
    """A plan for a server. layers: those of its model by default; options: for step time by default."""
    matched = server.matched(loads)
    known = recorded_layers(matched, server.model) if layers is None else layers
    how = serving_options(PlanningOptions(), matched, server, topology) if options is None else options
    request = PlanningRequest(topology, budget, how)
    return planned_for(server, request, matched if layers is None else loads, known, on_pass=on_pass).compilation.plan


def chosen_budget(
    server: ServingModel, request: PlanningRequest, loads: LoadProfile, on_pass: Progress | None = None
) -> tuple[PlanningRequest, GoodputCurve | None]:
    """`request` with the replicas per GPU that goodput chooses, and the curve behind it, if its budget is `auto`.

    As long as the most that were tried are chosen, twice as many are tried too.
    """
    if request.budget.kind != "auto":
        return request, None
    if request.options.objective == "worst-workload":
        raise Unsupported(
            "budget auto with a cluster: goodput is about all steps, not the worst workload; "
            "give a budget such as 8replicas/gpu"
        )
    # What is planned anew for every number of replicas knows no plan in use.
    options = replace(request.options, current_plan=None, max_move_bytes=None)
    tried: tuple[int, ...] = REPLICAS
    curve = curve_of(loads, request.topology, server, options, tried, on_pass=on_pass)
    while curve.chosen == tried[-1]:
        tried = (*tried, 2 * tried[-1])
        curve = curve_of(loads, request.topology, server, options, tried, on_pass=on_pass)
    return replace(request, budget=replicas_budget(request.budget.text, curve.chosen)), curve


def with_goodput(plan: ReplicationPlan, loads: LoadProfile, server: ServingModel) -> ReplicationPlan:
    """`plan` with its goodput in the estimate, next to placement only and EPLB as published.

    loads: those that the plan was made from, which all three are placed and judged on. Raises BadInput if plan, loads,
    model and cluster do not belong together, Infeasible if a server without replicas has no KV cache for a request.
    """
    if plan.estimate is None:
        return plan
    matched = server.matched(loads)
    server.check_sizes(plan.moe_layers)
    placements, shares = [layer.placement for layer in plan.layers], [layer.shares for layer in plan.layers]
    none, eplb = baseline_arms(HeldOut(matched, matched), server, plan.topology)
    require_cache(server, plan.topology, none.expert_bytes)
    own = worth(measured_arm("plan", placements, matched, server, plan.topology, shares))
    least, published = worth(none), worth(eplb)
    work, cluster = server.workload, server.cluster
    predicted = PredictedGoodput(
        cluster=cluster.name,
        fingerprint=f"sha256:{cluster.fingerprint}",
        input=work.input,
        output=work.output,
        phase=work.phase,
        requests_per_s=own.goodput,
        over_none=own.goodput / least.goodput if least.goodput else None,
        over_eplb=own.goodput / published.goodput if published.goodput else None,
        kv_lost=1 - own.kv_bytes / least.kv_bytes,
    )
    return replace(plan, estimate=replace(plan.estimate, goodput=predicted))
