"""Judge a plan on loads, its own or others.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.loads.load_profile import LoadProfile
from craftc.loads.match import check_loads_fit
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.objectives import placed_step_time
from craftc.solvers.planners.contiguous import contiguous_placements
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay


@dataclass(frozen=True)
class LayerEvaluation:
    """One layer's balancedness."""

    name: str
    """Path of the experts module."""
    replicas: int
    """Replicas in the plan."""
    contiguous: float
    """Experts in order, no replicas, in 0..1."""
    planned: float
    """The plan, in 0..1."""
    bound: float
    """Upper bound for any placement with this many replicas on these loads, in 0..1."""


@dataclass(frozen=True)
class Evaluation:
    """A plan's balancedness and step time on some loads."""

    steps: int
    """Steps of the loads."""
    loads: str
    """`sha256:` and the fingerprint of the loads."""
    own_loads: bool
    """Whether these are the loads that the plan was made from."""
    contiguous: float
    """Balancedness of experts in order without replicas, mean over layers, in 0..1."""
    planned: float
    """Balancedness of the plan, mean over layers, in 0..1."""
    bound: float
    """Upper bound for any placement with as many replicas per layer, mean over layers, in 0..1."""
    contiguous_step_time: float
    """Step time of experts in order without replicas, in units of perfect balance, at least 1."""
    step_time: float
    """Step time of the plan: time of the slowest GPU, summed over steps and layers, in units of perfect balance."""
    layers: tuple[LayerEvaluation, ...]
    """By ordinal."""


def evaluate(plan: ReplicationPlan, loads: LoadProfile) -> Evaluation:
    """Judge a plan on loads, its own or others: every step is replayed. Step time counts slots as the plan did.

    plan: made by craftc, or read from a server's placement file.
    loads: of the same layers and experts.

    Raises BadInput if plan and loads do not belong together.
    """
    check_loads_fit(loads, plan.moe_layers, "plan")
    counts_SLE = loads.counts_SLE
    sizes_L = tuple(layer.expert_bytes for layer in plan.layers)
    slot = plan.provenance.tokens_per_slot
    problem = PlanningProblem(
        counts_SLE,
        plan.topology,
        sizes_L,
        budget_bytes=0,
        tokens_per_slot=slot,
        layer_experts=loads.layer_experts,
    )
    contiguous, planned = contiguous_placements(problem), [layer.placement for layer in plan.layers]
    contiguous_SL = replay(counts_SLE, contiguous)
    planned_SL = replay(counts_SLE, planned, [layer.shares for layer in plan.layers])
    contiguous_L, planned_L = contiguous_SL.mean(axis=0), planned_SL.mean(axis=0)
    replicas_L = [layer.replicas for layer in plan.layers]
    bound_L = balancedness_bounds(counts_SLE, replicas_L, plan.topology.gpus, loads.layer_experts)
    fingerprint = f"sha256:{loads.sha256}"
    return Evaluation(
        steps=loads.steps,
        loads=fingerprint,
        own_loads=fingerprint == plan.provenance.loads,
        contiguous=float(np.mean(contiguous_L)),
        planned=float(np.mean(planned_L)),
        bound=float(np.mean(bound_L)),
        contiguous_step_time=placed_step_time(problem, contiguous_SL, contiguous),
        step_time=placed_step_time(problem, planned_SL, planned),
        layers=tuple(
            LayerEvaluation(layer.name, layer.replicas, *reached)
            for layer, *reached in zip(
                plan.layers, contiguous_L.tolist(), planned_L.tolist(), bound_L.tolist(), strict=True
            )
        ),
    )
