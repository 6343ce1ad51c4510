"""Plans as they are, next to placement only and EPLB as published: what each is worth on the same server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import Progress
from craftc.plans.replication_plan import ReplicationPlan
from craftc.serving.arm import Arm, Worth, balanced, worth
from craftc.serving.arms import baseline_arms
from craftc.serving.confirmation import Confirmation, confirmed, ttft_limit
from craftc.serving.held_out import HeldOut, held_out
from craftc.serving.memory import require_cache
from craftc.serving.serving_model import ServingModel
from craftc.serving.simulate import plan_arm
from craftc.topology import Topology


@dataclass(frozen=True)
class ComparedArm:
    """A plan, or a baseline."""

    name: str
    """Name of the plan, `none` (placement only) or `eplb` (as published)."""
    worth: Worth
    """What it is worth."""
    confirmation: Confirmation | None
    """What the event simulation says; None if nothing fits, or in decode."""


@dataclass(frozen=True, eq=False)
class PlanComparison:
    """Plans and baselines on the same server, judged on the same loads."""

    topology: Topology
    """GPUs and nodes of all plans."""
    none: ComparedArm
    """Placement only, planned from the steps that do not judge."""
    eplb: ComparedArm
    """EPLB as published, from the same steps."""
    plans: tuple[ComparedArm, ...]
    """In the order given, at least one."""
    ceiling: Worth
    """Perfect balance at no memory: no plan is worth more."""
    ttft_limit_s: float
    """Longest mean time to the first token, in seconds: the workload's, or four times that of `none` unloaded."""
    judged: HeldOut
    """Steps that the baselines were planned from, and steps that all were judged on."""
    warnings: tuple[str, ...]
    """A line for every plan that was made from steps that judge it."""

    @property
    def best(self) -> ComparedArm:
        """The plan that is worth most; of several, the first."""
        return max(self.plans, key=lambda plan: plan.worth.goodput)


def compare_plans(
    plans: Mapping[str, ReplicationPlan],
    loads: LoadProfile,
    server: ServingModel,
    *,
    judge: LoadProfile | None = None,
    on_pass: Progress | None = None,
) -> PlanComparison:
    """Say what plans are worth.

    plans: by name, at least one, all for the same GPUs and nodes.
    loads: tokens per step, layer and expert; baselines are planned from half of the steps, the others judge.
    server: model, cluster and workload.
    judge: loads to judge on, instead of half of the steps.
    on_pass: called with the name of every step as it starts.

    Raises BadInput if plans, loads, model and cluster do not belong together, Infeasible if not even a server without
    replicas has KV cache for a request.
    """
    topology = common_topology(plans)
    split = held_out(server.matched(loads), None if judge is None else server.matched(judge))
    _tell(on_pass, "plan baselines")
    none, eplb = baseline_arms(split, server, topology)
    require_cache(server, topology, none.expert_bytes)
    _tell(on_pass, "simulate")
    limit_s = ttft_limit(none)
    judged_on = loads if judge is None else judge
    return PlanComparison(
        topology,
        _compared(none, limit_s),
        _compared(eplb, limit_s),
        tuple(_compared(_plan_arm(name, plan, split.judged, server), limit_s) for name, plan in plans.items()),
        worth(balanced(none)),
        limit_s,
        split,
        _own_loads(plans, (judged_on, server.matched(judged_on), split.judged)),
    )


def placement_only_arm(split: HeldOut, server: ServingModel, topology: Topology) -> ComparedArm:
    """Placement without replicas, for planners that cannot do without. Raises BadInput as `compare_plans`."""
    none, _ = baseline_arms(split, server, topology)
    return _compared(none, ttft_limit(none))


def common_topology(plans: Mapping[str, ReplicationPlan]) -> Topology:
    """GPUs and nodes of all plans. Raises BadInput, naming two plans, if they differ, or if there is no plan."""
    if not plans:
        raise BadInput("no plans to compare: give at least one")
    (first, plan), *others = plans.items()
    for name, other in others:
        if other.topology != plan.topology:
            raise BadInput(
                f"{first} is for {topology_words(plan.topology)}, {name} for {topology_words(other.topology)}: compare "
                f"plans for the same GPUs"
            )
    return plan.topology


def topology_words(topology: Topology) -> str:
    """GPUs and nodes in words."""
    return f"{topology.gpus} GPUs on {topology.nodes} node{'' if topology.nodes == 1 else 's'}"


def _own_loads(plans: Mapping[str, ReplicationPlan], judges: tuple[LoadProfile, ...]) -> tuple[str, ...]:
    known = {f"sha256:{judge.sha256}" for judge in judges}
    return tuple(
        f"{name} was made from the steps that judge it: on other steps it gains less; give steps that it was not made "
        f"from with --judge"
        for name, plan in plans.items()
        if plan.provenance.loads in known
    )


def _plan_arm(name: str, plan: ReplicationPlan, judged: LoadProfile, server: ServingModel) -> Arm:
    try:
        return plan_arm(name, plan, judged, server)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None


def _compared(arm: Arm, ttft_limit_s: float) -> ComparedArm:
    return ComparedArm(arm.name, worth(arm), confirmed(arm, ttft_limit_s))


def _tell(on_pass: Progress | None, step: str) -> None:
    if on_pass is not None:
        on_pass(step)
