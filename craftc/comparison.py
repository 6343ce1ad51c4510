"""What a plan is worth beside the baselines, all on the same loads.

Axes: A arms, S steps, L layers, E experts, G GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from craftc.plan import ArmEstimate, Estimate, LayerEstimate
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.contiguous import contiguous_placement
from craftc.solvers.craft import CraftPlanner
from craftc.solvers.eplb import eplb_placements, uniform_replicas
from craftc.solvers.planners import PLANNERS
from craftc.solvers.problem import Allocation, BenefitCurves, Placement, Planner, PlanningProblem
from craftc.solvers.replay import placement_array, placements_of, replay_batch
from craftc.solvers.slots import assign_slots


def compare(
    problem: PlanningProblem,
    planner: Planner,
    curves: BenefitCurves,
    allocation: Allocation,
    placements: Sequence[Placement],
) -> Estimate:
    """The plan of `planner` beside the baselines and the bound, on the problem's loads.

    Arms in order: `contiguous`; `placement` (greedy, no replicas); `eplb` as published, with the smallest uniform
    number of replicas it can do, at least one; every other planner at the problem's budget; the plan itself.
    """
    counts_SLE, topology = problem.counts_SLE, problem.topology
    baselines: dict[str, Sequence[Placement]] = {
        "contiguous": contiguous_placements(problem),
        "placement": CraftPlanner().place(problem, (0,) * problem.layers),
        "eplb": placements_of(
            eplb_placements(counts_SLE.sum(axis=0), uniform_replicas(problem.experts, topology), topology)
        ),
    }
    others = {name: _plan(problem, other) for name, other in PLANNERS.items() if name not in ("eplb", planner.name)}
    arms = {name: arm for name, arm in (baselines | others).items() if name != planner.name}
    arms[planner.name] = placements
    # All arms at once: replaying is mostly gathering a layer's loads.
    every = placement_array([placement for arm in arms.values() for placement in arm])
    layer_AL = np.tile(np.arange(problem.layers), len(arms))
    balancedness_AL = replay_batch(counts_SLE, layer_AL, every).reshape(len(arms), problem.layers)
    contiguous_L, planned_L = balancedness_AL[0], balancedness_AL[-1]
    bound_L = balancedness_bounds(counts_SLE, allocation.replicas_L, topology.gpus)
    chosen_L = [curves.candidates_C.index(count) for count in allocation.replicas_L]
    return Estimate(
        balancedness=float(planned_L.mean()),
        bound=float(bound_L.mean()),
        predicted=float(curves.balancedness_LC[np.arange(problem.layers), chosen_L].mean()),
        arms=tuple(
            _arm(problem, name, arm, float(balancedness_L.mean()))
            for (name, arm), balancedness_L in zip(arms.items(), balancedness_AL, strict=True)
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


def contiguous_placements(problem: PlanningProblem) -> tuple[Placement, ...]:
    """Experts in order in every layer, no replicas."""
    slots_LG = assign_slots([problem.experts] * problem.layers, problem.expert_bytes_L, problem.topology)
    return tuple(contiguous_placement(slots_G) for slots_G in slots_LG)


def _plan(problem: PlanningProblem, planner: Planner) -> tuple[Placement, ...]:
    allocation = planner.allocate(problem, planner.estimate(problem))
    return planner.place(problem, allocation.replicas_L)


def _arm(problem: PlanningProblem, name: str, placements: Sequence[Placement], balancedness: float) -> ArmEstimate:
    replicas_L = [sum(len(gpu) for gpu in placement) - problem.experts for placement in placements]
    spent_bytes = sum(count * size for count, size in zip(replicas_L, problem.expert_bytes_L, strict=True))
    return ArmEstimate(
        arm=name,
        balancedness=balancedness,
        replicas_per_gpu=sum(replicas_L) / problem.topology.gpus,
        bytes_per_gpu=spent_bytes / problem.topology.gpus,
    )
