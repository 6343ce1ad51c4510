"""What is known so far: the value that passes fill in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from craftc.errors import BadInput, CraftcError
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.planning_options import PlanningRequest
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.allocation.auto_budget import BudgetCurve
from craftc.solvers.phases import PhaseGain
from craftc.solvers.problem import Allocation, BenefitCurves, PlanningProblem

if TYPE_CHECKING:  # planning from loads alone must not pay for importing torch
    from torch import fx, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class NearMiss:
    """A module that looks like experts but is not handled, and why."""

    name: str
    """Module path."""
    reason: str
    """The condition that failed, with the numbers."""


@dataclass(frozen=True)
class Verification:
    """What `verify_rewrite` measured."""

    max_abs_difference: dict[str, float]
    """Largest |rewritten - original| output per dtype."""
    tolerance: dict[str, float]
    """Largest difference allowed per dtype."""
    max_token_deviation: float
    """Largest |counted - predicted| GPU load over all layers and GPUs, as a fraction of the mean GPU load."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Dtypes in which outputs were not compared, because the original model does not run in them, with its error."""


@dataclass(frozen=True)
class PassTiming:
    """A pass that ran."""

    name: str
    """As in `--stop-after`."""
    seconds: float
    """Wall-clock time."""
    printed: str
    """The pass with its options, as its pipeline prints it."""


class PassContractError(CraftcError):
    """A pass broke its contract, or a fact was read before it was known: a bug, never the user's mistake."""


_UNKNOWN: Any = object()
"""What a fact holds until it is known; readers never see it."""


class Fact(Generic[Value]):
    """A field of `Compilation` that a pass or a caller fills in.

    Reading it earlier raises PassContractError naming the giver.
    """

    def __init__(self, given_by: str) -> None:
        self.given_by = given_by

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, compilation: Compilation | None, owner: type | None = None) -> Value:
        if compilation is None:  # the dataclass asks for its default
            return _UNKNOWN
        value: Value = vars(compilation)[self.name]
        if value is _UNKNOWN:
            raise PassContractError(f"{self.name} is not known yet: {self.given_by} gives it")
        return value

    def __set__(self, compilation: Compilation, value: Value) -> None:
        vars(compilation)[self.name] = value


@dataclass(frozen=True, eq=False, repr=False)
class Compilation:
    """Everything known so far; a pass returns an `updated` copy with more of it filled in."""

    model: Fact[nn.Module] = Fact("the caller")
    """The original model, untouched."""
    inputs: Fact[WorkloadInputs] = Fact("the caller")
    """Its inputs."""
    graph: Fact[fx.GraphModule] = Fact("trace")
    """The traced model; after rewriting, the rewritten one."""
    layers: Fact[tuple[MoELayer, ...]] = Fact("find_moe_layers, or the caller,")
    """MoE layers by ordinal."""
    near_misses: tuple[NearMiss, ...] = ()
    """Modules that are almost MoE layers."""
    loads: Fact[LoadProfile] = Fact("profile_loads, or the caller,")
    """Measured or imported loads."""
    request: Fact[PlanningRequest] = Fact("a pipeline that plans")
    """What to plan, as the user asked for it."""
    budget_bytes: Fact[int] = Fact("resolve_budget")
    """The budget in bytes, all GPUs together; for `auto`, the largest useful budget, within which one is chosen."""
    problem: Fact[PlanningProblem] = Fact("pose_problem")
    """What to plan, in numbers: all that planners read."""
    curves: Fact[BenefitCurves] = Fact("estimate_benefit")
    """Benefit of replicas per layer."""
    validated_curves: Fact[BenefitCurves | None] = Fact("validate_curves")
    """Benefit on steps left out of planning, if replicas are allocated by it; None if not."""
    budget_curve: Fact[BudgetCurve] = Fact("choose_budget")
    """What every budget would reach, if the budget was chosen by it."""
    allocation: Fact[Allocation] = Fact("allocate_replicas")
    """Replicas per layer."""
    plan: Fact[ReplicationPlan] = Fact("place_replicas")
    """Copies and placement."""
    phases: Fact[PhaseGain | None] = Fact("find_phases")
    """What a plan for each phase of the steps would gain; None if all steps are alike."""
    verification: Fact[Verification] = Fact("verify_rewrite")
    """Measured equality of original and rewritten model."""
    timings: tuple[PassTiming, ...] = ()
    """The passes that ran, in order."""

    def knows(self, name: str) -> bool:
        """Whether the field called `name` has been filled in."""
        return vars(self)[name] is not _UNKNOWN

    @property
    def deciding_curves(self) -> BenefitCurves:
        """The curves by which replicas are allocated."""
        validated = self.validated_curves if self.knows("validated_curves") else None
        return validated or self.curves

    def __repr__(self) -> str:
        return f"Compilation(knows {', '.join(name for name in vars(self) if self.knows(name))})"


if TYPE_CHECKING:  # the same for type checkers, which then check the name and type of every field
    from dataclasses import replace as updated
else:

    def updated(compilation: Compilation, **facts: object) -> Compilation:
        """A copy of `compilation` that also knows `facts`. (`dataclasses.replace` would read what is not known yet.)"""
        return Compilation(**(vars(compilation) | facts))


def require_moe_layers(compilation: Compilation) -> None:
    """Raise BadInput, naming the first near miss, if the model was searched and has no MoE layer."""
    if not compilation.layers:
        kind = type(compilation.model).__name__ if compilation.knows("model") else "the model"
        raise BadInput(no_moe_layer(kind, compilation.near_misses))


def grouped(near_misses: tuple[NearMiss, ...]) -> tuple[NearMiss, ...]:
    """One near miss for all that differ in nothing but the layer, named after the first, with their number."""
    groups: dict[str, list[NearMiss]] = {}
    for miss in near_misses:
        groups.setdefault(_without_layer(f"{miss.name}: {miss.reason}"), []).append(miss)
    return tuple(
        alike[0] if len(alike) == 1 else NearMiss(f"{alike[0].name} and {len(alike) - 1} more", alike[0].reason)
        for alike in groups.values()
    )


def _without_layer(text: str) -> str:
    """`text` with every number within a path (`layers.3.mlp`) replaced."""
    return re.sub(r"(?<=\.)\d+(?=\.|:|\b)", "*", text)


def no_moe_layer(kind: str, near_misses: tuple[NearMiss, ...]) -> str:
    """The message: what was looked for in a model of class `kind`, or what was almost found."""
    if not near_misses:
        return (
            f"{kind} has no MoE layer: neither a module with 3-D parameters stacked over experts, "
            f"nor a ModuleList of equal experts with a router next to it"
        )
    first = near_misses[0]
    count = "1 near miss" if len(near_misses) == 1 else f"{len(near_misses)} near misses (craftc inspect), the first"
    return f"{kind} has no MoE layer that craftc can handle; {count}: {first.name}: {first.reason}"
