"""The planners by name: a new one is one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from craftc.errors import BadInput, Unsupported
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import EplbPlanner
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.planners.uniform import UNIFORM, UniformPlanner
from craftc.solvers.problem import Planner, PlanningProblem

PLANNERS: Mapping[str, Planner] = {
    "craft": CraftPlanner(),
    "eplb": EplbPlanner(),
    "craftc": GroupedPlanner(StepwisePlanner()),
}


def planner_named(name: str) -> Planner:
    """The planner called `name`, or its uniform form. Raises BadInput naming all planners."""
    base = name.removesuffix(UNIFORM)
    if base not in PLANNERS:
        raise BadInput(f"planner {name!r} is unknown; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[base] if base == name else UniformPlanner(PLANNERS[base])


def uniform_name(name: str) -> str:
    """The name of the uniform form of the planner called `name`, which may be one already."""
    return name.removesuffix(UNIFORM) + UNIFORM


def planner_for(name: str, problem: PlanningProblem) -> Planner:
    """The planner called `name` at the problem's effort.

    Raises BadInput naming all planners, and Unsupported, naming those that can, where this one does not know the
    problem's objective, its weights of steps, or its expert groups.
    """
    planner = planner_named(name).at_effort(problem.effort)
    weighted = problem.step_weight_S is not None
    if problem.objective not in planner.objectives or (weighted and not planner.weighs_steps):
        able = _able(lambda one: problem.objective in one.objectives and one.weighs_steps >= weighted)
        raise Unsupported(f"planner {name} plans for balancedness only: for other objectives choose {able}")
    if problem.groups > 1 and (weighted or problem.objective != "balancedness"):
        raise Unsupported("expert groups and objectives other than balancedness do not go together: drop one of them")
    if problem.has_groups_to_keep and not planner.keeps_groups:
        able = _able(lambda one: one.keeps_groups)
        raise Unsupported(f"planner {name} does not keep expert groups on nodes: choose {able}")
    return planner


def _able(can: Callable[[Planner], bool]) -> str:
    return " or ".join(name for name, planner in PLANNERS.items() if can(planner))
