"""The contract of a pass: what it needs, what it gives, and whether it may touch the graph. Checked, not trusted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar

from craftc.errors import BadInput, CraftcError
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.plans.replication_plan import PlanObjective, ReplicationPlan
from craftc.plans.verifier import require_sound
from craftc.solvers.allocation.auto_budget import BudgetCurve
from craftc.solvers.problem import Allocation, BenefitCurves, EffortName
from craftc.topology import Topology

if TYPE_CHECKING:  # planning from loads alone must not pay for importing torch
    import numpy as np
    from torch import fx, nn


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


@dataclass(frozen=True, eq=False)
class Compilation:
    """Everything known so far; a pass returns a copy with more of it filled in."""

    model: nn.Module | None = None
    """The original model, untouched."""
    inputs: WorkloadInputs | None = None
    """Its inputs."""
    graph: fx.GraphModule | None = None
    """The traced (later: rewritten) model."""
    layers: tuple[MoELayer, ...] | None = None
    """MoE layers by ordinal."""
    near_misses: tuple[NearMiss, ...] = ()
    """What was almost an MoE layer."""
    loads: LoadProfile | None = None
    """Measured or imported loads."""
    topology: Topology | None = None
    """GPUs and nodes to plan for."""
    expert_groups: int = 1
    """Groups of contiguous experts that each stay on one node; 1 is no such rule."""
    budget_requested: str | None = None
    """The budget as the user wrote it."""
    budget_bytes: int | None = None
    """The budget in bytes, all GPUs together."""
    effort: EffortName = "medium"
    """How hard placements are searched."""
    objective: PlanObjective = "balancedness"
    """What the plan is made to be good at."""
    step_weight_S: np.ndarray | None = None
    """How much every step counts in planning, where not all the same."""
    curves: BenefitCurves | None = None
    """Benefit of replicas per layer."""
    validated_curves: BenefitCurves | None = None
    """The same on steps left out of planning, where replicas are to be allocated by that."""
    budget_curve: BudgetCurve | None = None
    """What every budget would reach, where the budget was chosen by it."""
    allocation: Allocation | None = None
    """Replicas per layer."""
    plan: ReplicationPlan | None = None
    """Copies and placement."""
    verification: Verification | None = None
    """Measured equality of original and rewritten model."""

    @property
    def deciding_curves(self) -> BenefitCurves | None:
        """The curves that replicas are allocated by."""
        return self.curves if self.validated_curves is None else self.validated_curves


class PassContractError(CraftcError):
    """A pass broke its contract: a bug in the pass, never the user's mistake."""


@dataclass(frozen=True)
class Pass(ABC):
    """Base class of passes; the fields of a subclass are its options."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Fields of Compilation that must be filled in before."""
    gives: ClassVar[tuple[str, ...]]
    """Fields of Compilation that are filled in after."""
    changes_graph: ClassVar[bool] = False
    """An analysis pass (False) provably leaves graph and parameters as they were."""

    @abstractmethod
    def run(self, compilation: Compilation) -> Compilation:
        """The work; called through `Pipeline`, which checks the contract."""

    def __str__(self) -> str:
        options = ", ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self) if option.repr)
        return f"{self.name}({options})"


@dataclass(frozen=True)
class PassTiming:
    """Wall-clock time of one pass."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Passes in order: a value that can be printed, timed, and stopped after any pass."""

    passes: tuple[Pass, ...]
    """Run in this order."""
    on_pass: Callable[[Pass], None] | None = field(default=None, compare=False)
    """Called before each pass, for progress."""

    def __str__(self) -> str:
        return "\n".join(str(one) for one in self.passes)

    def until(self, name: str) -> Pipeline:
        """The pipeline that stops after the pass called `name`. Raises BadInput if there is none."""
        names = [one.name for one in self.passes]
        if name not in names:
            raise BadInput(f"no pass {name!r} in the pipeline: {', '.join(names)}")
        return replace(self, passes=self.passes[: names.index(name) + 1])

    def run(self, compilation: Compilation) -> tuple[Compilation, tuple[PassTiming, ...]]:
        """Run every pass, checking its contract. Raises PassContractError, or what a pass raises."""
        timings: list[PassTiming] = []
        for one in self.passes:
            if self.on_pass:
                self.on_pass(one)
            started = time.perf_counter()
            compilation = run_checked(one, compilation)
            timings.append(PassTiming(one.name, time.perf_counter() - started))
        return compilation, tuple(timings)


def run_checked(one: Pass, compilation: Compilation) -> Compilation:
    """Run one pass and check what it needs, gives, and leaves alone; then verify graph and plan again."""
    missing = [need for need in one.needs if getattr(compilation, need) is None]
    if missing:
        raise PassContractError(f"pass {one.name} needs {', '.join(missing)}: run the passes that give them first")
    before = _graph_state(compilation)
    after = one.run(compilation)
    ungiven = [gift for gift in one.gives if getattr(after, gift) is None]
    if ungiven:
        raise PassContractError(f"pass {one.name} did not give {', '.join(ungiven)}")
    if not one.changes_graph and _graph_state(after) != before:
        raise PassContractError(f"pass {one.name} changed the graph, but is an analysis pass")
    _verify(after)
    return after


def _verify(compilation: Compilation) -> None:
    """What holds after every pass: a well-formed graph, and a plan that breaks no rule (VerificationFailed)."""
    if compilation.graph is not None:
        compilation.graph.graph.lint()
    if compilation.plan is not None:
        require_sound(compilation.plan)


def _graph_state(compilation: Compilation) -> tuple[str, tuple[tuple[str, int, int], ...]] | None:
    """Nodes, and identity and version of every parameter; enough to see any change to either."""
    if compilation.graph is None:
        return None
    nodes = "\n".join(node.format_node() or str(node) for node in compilation.graph.graph.nodes)
    state = tuple(
        (name, id(value), value._version) for name, value in compilation.graph.state_dict(keep_vars=True).items()
    )
    return nodes, state
