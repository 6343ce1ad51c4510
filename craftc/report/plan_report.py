"""A plan as text: what it costs and gains, next to the baselines and layer by layer."""

from __future__ import annotations

from craftc.plans.replication_plan import PlannerEstimate, ReplicationPlan
from craftc.report.text_table import text_table
from craftc.units import format_size

PLANNER_NAMES = {
    "contiguous": "contiguous",
    "placement": "placement only",
    "eplb": "EPLB (uniform)",
    "craft": "CRAFT",
    "craftc": "craftc",
}
"""Names of planners and baselines in tables."""


def plan_summary(plan: ReplicationPlan) -> str:
    """Topology, budget, and how replicas were allocated: a few lines."""
    gpus, nodes = plan.topology.gpus, plan.topology.nodes
    experts = sum(layer.experts for layer in plan.layers)
    lines = [
        f"{len(plan.layers)} MoE layers, {experts:,} experts on {gpus} GPUs in {nodes} node{'s' if nodes > 1 else ''}",
        f"budget {plan.budget.requested} = {format_size(plan.budget.bytes)}, spent "
        f"{format_size(plan.budget.spent_bytes)} on {plan.replicas:,} replicas "
        f"({plan.replicas / gpus:.4g} per GPU, {format_size(plan.budget.spent_bytes / gpus)} per GPU)",
        *_unspent_lines(plan),
        *_option_lines(plan),
        _solver_line(plan),
    ]
    return "\n".join(lines)


def comparison_table(plan: ReplicationPlan) -> str:
    """Balancedness, step time and memory of the baselines and this plan on the same loads, and the bound."""
    if plan.estimate is None:
        return "this plan has no estimate: judge it with craftc evaluate PLAN --loads FILE"
    names = PLANNER_NAMES if plan.groups == 1 else PLANNER_NAMES | {"eplb": "EPLB (hierarchical)"}
    own = len(plan.estimate.planners) - 1
    worst_workload = plan.provenance.objective == "worst-workload"
    rows = [
        (
            names.get(row.planner, row.planner) + (": this plan" if number == own else ""),
            f"{row.balancedness:.3f}",
            _step_time(row, plan),
            f"{row.replicas_per_gpu:.4g}",
            format_size(row.bytes_per_gpu),
            *(("" if row.objective is None else f"{row.objective:.3f}",) if worst_workload else ()),
        )
        for number, row in enumerate(plan.estimate.planners)
    ]
    head = (
        "on the plan's own loads",
        "balancedness",
        "step time",
        "replicas/GPU",
        "memory/GPU",
        *(("worst workload",) if worst_workload else ()),
    )
    bound = ("upper bound for these replicas", f"{plan.estimate.bound:.3f}")
    return text_table(head, [*rows, (*bound, *[""] * (len(head) - len(bound)))])


def validation_text(plan: ReplicationPlan) -> str:
    """What replicas gain on steps planned from and on steps left out; empty if unknown."""
    checked = None if plan.estimate is None else plan.estimate.cross_validation
    if checked is None:
        return ""
    rows = [
        ("placement only", f"{checked.placement_only_seen:.3f}", f"{checked.placement_only_unseen:.3f}"),
        ("with these replicas", f"{checked.seen:.3f}", f"{checked.unseen:.3f}"),
        ("gained by replicas", f"{checked.gain_seen:.3f}", f"{checked.gain_unseen:.3f}"),
    ]
    head = f"cross-validated, {checked.folds} folds"
    return text_table((head, "steps planned from", "steps left out"), rows)


def goodput_text(plan: ReplicationPlan) -> str:
    """What the plan is worth on its cluster, in one line; empty if it was made for none."""
    worth = None if plan.estimate is None else plan.estimate.goodput
    if worth is None:
        return ""
    if worth.requests_per_s == 0:
        return f"predicted goodput on {worth.cluster}: none, no request fits the KV cache, or none keeps the limits"
    times = ((worth.over_eplb, "EPLB"), (worth.over_none, "no replicas"))
    ratios = ", ".join(f"{ratio:.2f}x {name}" for ratio, name in times if ratio is not None)
    return (
        f"predicted goodput on {worth.cluster}, on the plan's own loads: {ratios}; KV cache {-worth.kv_lost:+.1%} "
        f"({worth.requests_per_s:.3g} requests/s)"
    )


def layer_table(plan: ReplicationPlan) -> str:
    """One line per layer: replicas and balancedness."""
    columns = ("layer", "experts", "expert size", "replicas", "most copies")
    rows = [
        (
            layer.name,
            str(layer.experts),
            format_size(layer.expert_bytes),
            str(layer.replicas),
            str(max(layer.copies_E)),
        )
        for layer in plan.layers
    ]
    if plan.estimate is None:
        return text_table(columns, rows)
    estimates = [
        (f"{layer.contiguous:.3f}", f"{layer.placement_only:.3f}", f"{layer.planned:.3f}", f"{layer.bound:.3f}")
        for layer in plan.estimate.layers
    ]
    return text_table(
        (*columns, "contiguous", "placement", "planned", "bound"),
        [(*row, *estimate) for row, estimate in zip(rows, estimates, strict=True)],
    )


def _step_time(row: PlannerEstimate, plan: ReplicationPlan) -> str:
    """Old files state it in plans made for it, as their objective, and nowhere else."""
    stated = row.objective if row.step_time is None and plan.provenance.objective == "step-time" else row.step_time
    return "" if stated is None else f"{stated:.3f}"


def _slot_time(plan: ReplicationPlan) -> str:
    tokens = plan.provenance.tokens_per_slot
    return f"; reading the weights of one expert takes as long as {round(tokens, 1):g} tokens" if tokens else ""


def _unspent_lines(plan: ReplicationPlan) -> list[str]:
    """Why budget is left that would pay for another replica."""
    left = plan.budget.bytes - plan.budget.spent_bytes
    further = [layer for layer in plan.layers if layer.replicas < layer.experts * (plan.topology.gpus - 1)]
    if left < min((layer.expert_bytes for layer in further), default=1):
        return []
    if not further:
        reason = "every GPU holds every expert"
    elif plan.provenance.curves == "cross-validated":
        reason = "on steps left out of planning, other or more replicas gain less"
    else:
        reason = (
            f"of the replica counts that planner {plan.provenance.planner} tried, no others that fit gain more here"
        )
    return [f"unspent: {format_size(left)}, because {reason}"]


def _option_lines(plan: ReplicationPlan) -> list[str]:
    """What is out of the ordinary: the objective, expert groups and unequal shares."""
    lines = []
    if plan.provenance.objective != "balancedness":
        lines.append(f"made for {plan.provenance.objective.replace('-', ' ')}{_slot_time(plan)}")
    if plan.groups > 1:
        lines.append(f"each of {plan.groups} groups of experts within one node; placement only and CRAFT ignore groups")
    unequal = sum(layer.shares is not None for layer in plan.layers)
    if unequal:
        lines.append(f"copies of an expert share its tokens unevenly in {unequal} of {len(plan.layers)} layers")
    return lines


def _solver_line(plan: ReplicationPlan) -> str:
    made_by = plan.provenance
    gap = "" if made_by.gap is None else f", gap {made_by.gap:.2%}"
    status = {"optimal": "proven optimal for the benefit curves"}.get(made_by.status, made_by.status)
    curves = ", benefit curves cross-validated" if made_by.curves == "cross-validated" else ""
    return f"planner {made_by.planner}, allocation by {made_by.solver}: {status}{gap}{curves}"
