"""Plans for the compile backend: ready ones, from loads, or from the counts of the first calls.

Axes: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from craftc.budget import resolve_budget
from craftc.errors import BadInput, Unsupported
from craftc.loads.load_profile import LoadProfile
from craftc.loads.read_loads import read_loads
from craftc.models.moe_layer import MoELayer
from craftc.passes.analysis.tracing.experts import block_index, find_experts
from craftc.passes.pipelines import planned
from craftc.planning_options import PlanningRequest
from craftc.plans.file import read_plan
from craftc.plans.replication_plan import ReplicationPlan
from craftc.plans.verifier import require_sound
from craftc.runtime.plan_match import expert_bytes
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import PlanningProblem


def model_layers(root: nn.Module) -> tuple[MoELayer, ...]:
    """The MoE layers of `root` with fused experts, by ordinal."""
    return tuple(
        MoELayer(
            name=experts.path,
            index=block_index(root, experts.path, ordinal),
            experts=experts.experts,
            expert_bytes=expert_bytes(root.get_submodule(experts.path)),
            layout="fused",
        )
        for ordinal, experts in enumerate(module for module in find_experts(root)[0] if module.layout == "fused")
    )


def ready_plan(source: ReplicationPlan | Path) -> ReplicationPlan:
    """A plan, read if it is a file. Raises BadInput or VerificationFailed if it is not sound."""
    if isinstance(source, Path):
        return read_plan(source)
    require_sound(source)
    return source


def plan_from_loads(
    request: PlanningRequest, layers: tuple[MoELayer, ...], loads: LoadProfile | Path
) -> ReplicationPlan:
    """A plan for `layers` from measured loads or their file. Raises BadInput if they are loads of another model."""
    return planned(request, read_loads(loads) if isinstance(loads, Path) else loads, layers).plan


def plan_from_counts(request: PlanningRequest, layers: tuple[MoELayer, ...], counts_SLE: np.ndarray) -> ReplicationPlan:
    """A plan for `layers` from counted calls; calls without any token are left out."""
    steps = counts_SLE.sum(axis=(1, 2)) > 0
    if not steps.any():
        raise BadInput(f"none of the first {len(counts_SLE)} calls routed a token")
    loads = LoadProfile.from_counts(
        counts_SLE[steps],
        layer_names=tuple(layer.name for layer in layers),
        layer_indices=tuple(layer.index for layer in layers),
        provenance=f"first {int(steps.sum())} calls of the compiled model",
        layer_experts=tuple(layer.experts for layer in layers),
    )
    return planned(request, loads, layers).plan


def check_plannable(request: PlanningRequest, layers: tuple[MoELayer, ...]) -> None:
    """Raise now what planning from counted calls would raise later: BadInput, Infeasible, or Unsupported."""
    resolve_budget(request.budget, layers, request.topology)
    how = request.options
    if how.objective == "worst-workload":
        raise Unsupported("torch.compile: objective worst-workload needs loads with step_names; give option loads")
    problem = PlanningProblem(
        np.zeros((1, len(layers), max(layer.experts for layer in layers)), dtype=np.int64),
        request.topology,
        tuple(layer.expert_bytes for layer in layers),
        budget_bytes=0,
        groups=how.expert_groups,
        objective=how.objective,
        layer_experts=tuple(layer.experts for layer in layers),
    )
    planner_for(how.planner, problem)
