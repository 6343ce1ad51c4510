"""The planners by name: a new one is one line here."""

from __future__ import annotations

from dataclasses import replace

from craftc.errors import BadInput, Unsupported
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import EplbPlanner
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.planners.uniform import UniformPlanner
from craftc.solvers.problem import EffortName, Planner, PlanningProblem
from craftc.solvers.search.effort import EFFORTS

PLANNERS: dict[str, Planner] = {
    "craft": CraftPlanner(),
    "eplb": EplbPlanner(),
    "craftc": StepwisePlanner(),
}

UNIFORM = "-uniform"
"""Behind a planner's name: the same number of replicas in every layer."""


def planner_named(name: str) -> Planner:
    """The planner called `name`, or its uniform form. Raises BadInput naming all planners."""
    base = name.removesuffix(UNIFORM)
    if base not in PLANNERS:
        raise BadInput(f"planner {name!r} is unknown; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[base] if base == name else UniformPlanner(PLANNERS[base])


def planner_for(name: str, problem: PlanningProblem) -> Planner:
    """The planner called `name` as `problem` needs it: with its effort, keeping its expert groups on nodes.

    Raises BadInput naming all planners, and Unsupported where the planner knows no groups, or not the objective.
    """
    planner = with_effort(planner_named(name), problem.effort)
    plain = problem.objective == "balancedness" and problem.step_weight_S is None
    if not plain and not (isinstance(planner, StepwisePlanner) and problem.groups == 1):
        raise Unsupported("objectives other than balancedness need planner craftc, and no expert groups")
    if problem.groups == 1 or problem.topology.nodes == 1:
        return planner
    if isinstance(planner, UniformPlanner):
        return UniformPlanner(_keeping_groups(planner.inner))
    return _keeping_groups(planner)


def with_effort(planner: Planner, effort: EffortName) -> Planner:
    """`planner` searching as hard as `effort` says; itself where it does not search."""
    if isinstance(planner, StepwisePlanner):
        return replace(planner, effort=EFFORTS[effort])
    if isinstance(planner, GroupedPlanner):
        return replace(planner, inner=replace(planner.inner, effort=EFFORTS[effort]))
    if isinstance(planner, UniformPlanner):
        return UniformPlanner(with_effort(planner.inner, effort))
    return planner


def quick_form(planner: Planner) -> Planner:
    """`planner` with the lowest search effort; itself where it does not search."""
    return with_effort(planner, "low")


def _keeping_groups(planner: Planner) -> Planner:
    if isinstance(planner, StepwisePlanner):
        return GroupedPlanner(planner)
    if isinstance(planner, EplbPlanner):
        return planner  # hierarchical by itself where the problem has groups
    raise Unsupported(f"planner {planner.name} does not keep expert groups on nodes: choose craftc or eplb")
