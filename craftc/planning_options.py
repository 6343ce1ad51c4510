"""What to plan: GPUs, memory, and how. It is stated once and carried through planning unchanged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from craftc.budget import Budget
from craftc.errors import BadInput
from craftc.plans.replication_plan import PlanObjective, ReplicationPlan
from craftc.solvers.problem import DEFAULT_PLANNER, EffortName, SolverName
from craftc.topology import Topology


@dataclass(frozen=True)
class PlanningOptions:
    """How to plan; the same for every command and function."""

    planner: str = DEFAULT_PLANNER
    """Name in `craftc.solvers.planners.registry`."""
    solver: SolverName = "auto"
    """What allocates replicas to layers: `auto`, a dynamic program or, where that would be large, HiGHS; or an integer
    program solved by `highs` or `cbc`."""
    time_limit_s: float = 30.0
    """Time limit of the solver in seconds, above 0; the plan never claims more than was proven by then."""
    shares: Literal["even", "lp"] = "even"
    """How copies share an expert's tokens: evenly, or by linear programming in the layers where unseen steps gain."""
    expert_groups: int = 1
    """Groups of contiguous experts that each stay on one node; 1 means no grouping."""
    cross_validate: bool = True
    """With four steps or more: let steps left out of planning decide which replica counts pay, where that gains."""
    objective: PlanObjective = "balancedness"
    """What to optimise the plan for."""
    effort: EffortName = "medium"
    """How hard to search for placements."""
    tokens_per_slot: float = 0.0
    """With objective `step-time`: tokens that take a GPU as long as reading one expert's weights. Its step then takes
    as long as its tokens or its slots, whichever is longer; 0 counts tokens only."""
    current_plan: ReplicationPlan | None = field(default=None, repr=False)
    """The plan in use, to start from: experts that stay on a GPU keep their slot."""
    max_move_bytes: int | None = None
    """With `current_plan`: total bytes of weights that may move; None means no limit."""

    def __post_init__(self) -> None:
        if self.solver not in get_args(SolverName):
            raise BadInput(f"solver {self.solver!r} is unknown; choose {', '.join(get_args(SolverName))}")
        if not self.time_limit_s > 0:
            raise BadInput(f"time limit must be above 0 seconds, got {self.time_limit_s}")
        if self.shares not in ("even", "lp"):
            raise BadInput(f"shares {self.shares!r} are unknown; choose even or lp")
        if self.effort not in get_args(EffortName):
            raise BadInput(f"effort {self.effort!r} is unknown; choose {', '.join(get_args(EffortName))}")
        if self.objective not in get_args(PlanObjective):
            raise BadInput(f"objective {self.objective!r} is unknown; choose {', '.join(get_args(PlanObjective))}")
        if self.objective == "worst-workload" and (self.current_plan is not None or self.shares != "even"):
            raise BadInput(
                "objective worst-workload: replanning and unequal shares support balancedness and step-time only"
            )
        if not 0 <= self.tokens_per_slot < math.inf:
            raise BadInput(f"tokens per slot must be a number of at least 0, got {self.tokens_per_slot}")
        if self.tokens_per_slot and self.objective != "step-time":
            raise BadInput(f"tokens per slot count in step time only: drop them, or ask for it, not {self.objective}")
        if self.max_move_bytes is not None and self.current_plan is None:
            raise BadInput("a limit on moved weights needs the plan in use: give both or neither")
        if self.max_move_bytes is not None and self.max_move_bytes < 0:
            raise BadInput(f"the limit on moved weights must be at least 0 bytes, got {self.max_move_bytes}")


@dataclass(frozen=True)
class PlanningRequest:
    """One planning run as its user asked for it; `craftc.solvers.problem.PlanningProblem` states it in numbers."""

    topology: Topology
    """GPUs and nodes to plan for."""
    budget: Budget
    """Memory for replicas, as written."""
    options: PlanningOptions = PlanningOptions()
    """How to plan."""

    @property
    def stated(self) -> dict[str, object]:
        """Everything requested, by name, except the plan in use."""
        options = {option.name: getattr(self.options, option.name) for option in fields(self.options) if option.repr}
        return {"gpus": self.topology.gpus, "nodes": self.topology.nodes, "budget": self.budget.text, **options}

    def __str__(self) -> str:
        return f"request({', '.join(f'{name}={value!r}' for name, value in self.stated.items())})"
