"""How to plan: which planner, which solver, how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from craftc.errors import BadInput
from craftc.solvers.planners import DEFAULT_PLANNER


@dataclass(frozen=True)
class PlanningOptions:
    """Options of every command and function that plans."""

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners`."""
    solver: Literal["highs", "cbc"] = "highs"
    """Solver of the allocation."""
    time_limit_s: float = 30.0
    """Seconds the solver may take, above 0; it never claims more than it proved by then."""

    def __post_init__(self) -> None:
        if self.solver not in ("highs", "cbc"):
            raise BadInput(f"solver {self.solver!r} is unknown; choose highs or cbc")
        if not self.time_limit_s > 0:
            raise BadInput(f"time limit must be above 0 seconds, got {self.time_limit_s}")
