"""The planners by name: a new one is one line here."""

from __future__ import annotations

from craftc.errors import BadInput
from craftc.solvers.craft import CraftPlanner
from craftc.solvers.eplb import EplbPlanner
from craftc.solvers.problem import Planner
from craftc.solvers.stepwise import StepwisePlanner
from craftc.solvers.uniform import UniformPlanner

PLANNERS: dict[str, Planner] = {
    "craft": CraftPlanner(),
    "eplb": EplbPlanner(),
    "craftc": StepwisePlanner(),
}

DEFAULT_PLANNER = "craftc"


UNIFORM = "-uniform"
"""Behind a planner's name: the same number of replicas in every layer."""


def planner_named(name: str) -> Planner:
    """The planner called `name`, or its uniform form. Raises BadInput naming all planners."""
    base = name.removesuffix(UNIFORM)
    if base not in PLANNERS:
        raise BadInput(f"planner {name!r} is unknown; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[base] if base == name else UniformPlanner(PLANNERS[base])
