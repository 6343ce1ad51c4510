"""What a plan is worth next to the baselines, all on the same loads.

Axes: P planners and baselines, S steps, L layers, E experts, G GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from craftc.errors import Unsupported
from craftc.plans.replication_plan import Estimate, LayerEstimate, PlannerEstimate
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.objectives import placed_step_time
from craftc.solvers.planners.contiguous import contiguous_placements
from craftc.solvers.planners.kinds import for_layers
from craftc.solvers.planners.published import placement_only, published_eplb
from craftc.solvers.planners.registry import PLANNERS, planner_for
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import placement_array, replay_steps


def compare(
    problem: PlanningProblem,
    planner: Planner,
    curves: BenefitCurves,
    allocation: Allocation,
    placements: Sequence[Placement],
    judge: Callable[[np.ndarray], float] | None = None,
) -> Estimate:
    """The plan of `planner` next to the baselines and the bound, on the problem's loads.

    In order: `contiguous`; `placement` (greedy, no replicas); `eplb` as published, with the smallest uniform number of
    replicas that it can place, at least one; every other planner at the problem's budget; the plan itself. With expert
    groups EPLB is hierarchical, while placement only and planners without groups do not keep them on nodes. judge: what
    the plan's objective makes of a planner's `balancedness_SL`, if it is neither balancedness nor step time.
    """
    counts_SLE, topology = problem.counts_SLE, problem.topology
    baselines: dict[str, Sequence[Placement]] = {
        "contiguous": contiguous_placements(problem),
        "placement": placement_only(problem),
        "eplb": published_eplb(problem),
    }
    placed = baselines | {planner.name: placements}
    placed |= {name: _plan(problem, name) for name in PLANNERS if name not in placed}
    placed[planner.name] = placed.pop(planner.name)  # the plan itself comes last
    # All at once, because most of the time goes into gathering the loads of a layer.
    every = placement_array([placement for theirs in placed.values() for placement in theirs])
    layer_PL = np.tile(np.arange(problem.layers), len(placed))
    balancedness_SPL = replay_steps(counts_SLE, layer_PL, every).reshape(-1, len(placed), problem.layers)
    balancedness_PL = balancedness_SPL.mean(axis=0)
    contiguous_L, planned_L = balancedness_PL[0], balancedness_PL[-1]
    bound_L = balancedness_bounds(counts_SLE, allocation.replicas_L, topology.gpus, problem.layer_experts)
    believed_L = [
        np.interp(count, curves.candidates_C, balancedness_C)
        for count, balancedness_C in zip(allocation.replicas_L, curves.balancedness_LC, strict=True)
    ]
    return Estimate(
        balancedness=float(planned_L.mean()),
        bound=float(bound_L.mean()),
        predicted=float(np.mean(believed_L)),
        planners=tuple(
            _estimate(problem, name, theirs, balancedness_SPL[:, number], judge)
            for number, (name, theirs) in enumerate(placed.items())
        ),
        layers=tuple(
            LayerEstimate(*values)
            for values in zip(
                contiguous_L.tolist(),
                curves.balancedness_LC[:, 0].tolist(),
                planned_L.tolist(),
                bound_L.tolist(),
                strict=True,
            )
        ),
    )


def with_planned(estimate: Estimate, planned_SL: np.ndarray, step_time: float) -> Estimate:
    """`estimate` with other figures for the plan itself: its copies share tokens unevenly."""
    balancedness = float(planned_SL.mean())
    *baselines, own = estimate.planners
    return replace(
        estimate,
        balancedness=balancedness,
        planners=(*baselines, replace(own, balancedness=balancedness, step_time=step_time)),
        layers=tuple(
            replace(layer, planned=planned)
            for layer, planned in zip(estimate.layers, planned_SL.mean(axis=0).tolist(), strict=True)
        ),
    )


def _plan(problem: PlanningProblem, name: str) -> tuple[Placement, ...]:
    """Planned by another planner at its lowest effort, without groups or an objective that it does not know."""
    problem = replace(problem, effort="low")
    try:
        planner = planner_for(name, problem)
    except Unsupported:
        problem = replace(problem, groups=1, objective="balancedness", step_weight_S=None)
        planner = for_layers(PLANNERS[name].at_effort("low"), problem)
    allocation = planner.allocate(problem, planner.estimate(problem))
    return planner.place(problem, allocation.replicas_L)


def _estimate(
    problem: PlanningProblem,
    name: str,
    placements: Sequence[Placement],
    balancedness_SL: np.ndarray,
    judge: Callable[[np.ndarray], float] | None,
) -> PlannerEstimate:
    replicas_L = [
        sum(map(len, placement)) - experts for placement, experts in zip(placements, problem.experts_L, strict=True)
    ]
    spent_bytes = sum(count * size for count, size in zip(replicas_L, problem.expert_bytes_L, strict=True))
    return PlannerEstimate(
        planner=name,
        balancedness=float(balancedness_SL.mean()),
        replicas_per_gpu=sum(replicas_L) / problem.topology.gpus,
        bytes_per_gpu=spent_bytes / problem.topology.gpus,
        objective=None if judge is None else judge(balancedness_SL),
        step_time=placed_step_time(problem, balancedness_SL, placements),
    )
