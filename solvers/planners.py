"""The planners by name: a new one is one line here."""

from __future__ import annotations

from craftc.errors import BadInput
from craftc.solvers.craft import CraftPlanner
from craftc.solvers.eplb import EplbPlanner
from craftc.solvers.problem import Planner
from craftc.solvers.stepwise import StepwisePlanner

PLANNERS: dict[str, Planner] = {
    "craft": CraftPlanner(),
    "eplb": EplbPlanner(),
    "craftc": StepwisePlanner(),
}

DEFAULT_PLANNER = "craftc"


def planner_named(name: str) -> Planner:
    """The planner called `name`. Raises BadInput naming all planners."""
    if name not in PLANNERS:
        raise BadInput(f"planner {name!r} is unknown; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[name]
