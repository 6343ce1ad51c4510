"""What servers place without planning: the baselines of every comparison, as published."""

from __future__ import annotations

from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import eplb_placements, uniform_replicas
from craftc.solvers.planners.kinds import for_layers, place_kinds
from craftc.solvers.problem import Placement, PlanningProblem
from craftc.solvers.replay import placements_of


def placement_only(problem: PlanningProblem) -> tuple[Placement, ...]:
    """CRAFT's greedy placement without replicas."""
    return for_layers(CraftPlanner(), problem).place(problem, (0,) * problem.layers)


def published_eplb(problem: PlanningProblem) -> tuple[Placement, ...]:
    """EPLB with the smallest uniform number of replicas that it can place, at least one, whatever the budget; if layers
    differ, for every number of experts. It may put two copies of an expert on one GPU."""
    if problem.layer_experts is not None:
        return place_kinds(problem, [published_eplb(problem.on_layers(layers)) for layers in problem.kinds])
    replicas = uniform_replicas(problem.experts, problem.topology)
    return placements_of(eplb_placements(problem.counts_SLE.sum(axis=0), replicas, problem.topology, problem.groups))
