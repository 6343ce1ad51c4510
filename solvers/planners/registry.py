"""The planners by name; a new one takes one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from craftc.errors import BadInput, Unsupported
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import EplbPlanner
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.kinds import for_layers
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.planners.uniform import UNIFORM, UniformPlanner
from craftc.solvers.problem import Planner, PlanningProblem

PLANNERS: Mapping[str, Planner] = {
    "craft": CraftPlanner(),
    "eplb": EplbPlanner(),
    "craftc": GroupedPlanner(StepwisePlanner()),
}


def planner_named(name: str) -> Planner:
    """The planner called `name`, or its uniform form. Raises BadInput, listing all planners, if there is none."""
    base = name.removesuffix(UNIFORM)
    if base not in PLANNERS:
        raise BadInput(f"planner {name!r} is unknown; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[base] if base == name else UniformPlanner(PLANNERS[base])


def uniform_name(name: str) -> str:
    """The name of the uniform form of the planner called `name`, which may be uniform already."""
    return name.removesuffix(UNIFORM) + UNIFORM


def planner_for(name: str, problem: PlanningProblem) -> Planner:
    """The planner called `name` at the problem's effort, for layers that differ if the problem's do.

    Raises BadInput, listing all planners, if there is none of that name, and Unsupported, listing those that can, if
    this one cannot handle the problem's objective, its step weights, its expert groups, or its layers.
    """
    planner = planner_named(name).at_effort(problem.effort)
    if problem.layer_experts is not None and name.endswith(UNIFORM):
        raise Unsupported(
            f"uniform plan: layers have {min(problem.layer_experts)} to {max(problem.layer_experts)} experts, so they "
            f"cannot have equal slots and equal replicas; plan without --uniform"
        )
    weighted = problem.step_weight_S is not None
    if problem.objective not in planner.objectives or (weighted and not planner.weighs_steps):
        able = _able(lambda candidate: problem.objective in candidate.objectives and candidate.weighs_steps >= weighted)
        raise Unsupported(f"planner {name} plans for balancedness only: for other objectives choose {able}")
    if problem.groups > 1 and weighted:
        raise Unsupported("expert groups cannot be combined with the objective worst-workload: drop one of them")
    if problem.has_groups_to_keep and not planner.keeps_groups:
        able = _able(lambda candidate: candidate.keeps_groups)
        raise Unsupported(f"planner {name} does not keep expert groups on nodes: choose {able}")
    return for_layers(planner, problem)


def _able(can: Callable[[Planner], bool]) -> str:
    return " or ".join(name for name, planner in PLANNERS.items() if can(planner))
