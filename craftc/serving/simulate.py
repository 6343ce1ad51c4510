"""What a plan is worth on a server, next to placement only and EPLB as published."""

from __future__ import annotations

from craftc.loads.load_profile import LoadProfile
from craftc.loads.match import check_loads_fit
from craftc.plans.replication_plan import ReplicationPlan
from craftc.serving.arm import Arm, Worth, measured_arm, worth
from craftc.serving.serving_model import ServingModel


def simulate(plan: ReplicationPlan, loads: LoadProfile, server: ServingModel) -> Worth:
    """What a plan is worth on a server that always has requests waiting.

    plan: its layers and the sizes of its experts must be the model's.
    loads: tokens per step, layer and expert, best not those that the plan was made from.
    server: model, cluster and workload.

    Raises BadInput if plan, loads, model and cluster do not belong together.
    """
    return worth(plan_arm("plan", plan, loads, server))


def plan_arm(name: str, plan: ReplicationPlan, loads: LoadProfile, server: ServingModel) -> Arm:
    """The plan as an arm called `name`, judged on `loads`. Raises BadInput as `simulate`."""
    matched = server.matched(loads)
    check_loads_fit(matched, plan.moe_layers, "plan")
    server.check_sizes(plan.moe_layers)
    placements = [layer.placement for layer in plan.layers]
    shares = [layer.shares for layer in plan.layers]
    return measured_arm(name, placements, matched, server, plan.topology, shares)
