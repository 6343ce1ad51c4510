"""What every planner takes and returns: numbers only, no model.

Axes: S steps, L layers, E experts, G GPUs, C candidate replica counts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from craftc.errors import BadInput, Unsupported
from craftc.topology import Topology

Placement = tuple[tuple[int, ...], ...]
"""One tuple per GPU: the experts it holds copies of, in slot order."""
Shares = tuple[tuple[float, ...], ...]
"""For every slot, the share of its expert's tokens; shaped like a Placement."""
ObjectiveName = Literal["balancedness", "step-time"]
"""What a planner optimises over steps: a large mean / max GPU load, or a small max GPU load."""
EffortName = Literal["low", "medium", "high"]
"""How hard a planner searches, if it searches; the stages of each name are in `craftc.solvers.search.effort`."""
MOST_GPUS = 4096
"""Most GPUs of a planning run: far more than share the experts of one model, and few enough to plan in a minute."""
DEFAULT_PLANNER = "craftc"
"""Name of the planner used by default; all planners are in `craftc.solvers.planners.registry`."""
SolverName = Literal["auto", "highs", "cbc"]
"""Solver of the allocation; `auto` is a dynamic program, or HiGHS where that would be large."""
Status = Literal["optimal", "feasible", "heuristic"]
"""`optimal`: proven. `feasible`: a solver stopped before a proof. `heuristic`: the method proves nothing."""


@dataclass(frozen=True, eq=False)
class PlanningProblem:
    """Loads, topology and budget of one planning run."""

    counts_SLE: np.ndarray
    """Tokens per step, layer and expert, `[S, L, E]`, not negative; E is that of the largest layer."""
    topology: Topology
    """GPUs and nodes."""
    expert_bytes_L: tuple[int, ...]
    """Bytes of one expert of every layer, length L, at least 1 each."""
    budget_bytes: int
    """Bytes for replicas on all GPUs in total, at least 0."""
    seed: int = 0
    """Seed of everything random: same problem, same plan."""
    solver: SolverName = "auto"
    """Solver of the allocation."""
    time_limit_s: float = 30.0
    """Seconds the solver of the allocation may take, above 0."""
    groups: int = 1
    """Equal, contiguous expert groups; all copies of a group's experts stay on one node. 1 means no grouping."""
    objective: ObjectiveName = "balancedness"
    """What the planner `craftc` optimises; the baselines optimise balancedness only."""
    step_weight_S: np.ndarray | None = None
    """How much every step counts, `[S]`, above 0; None counts all steps equally."""
    effort: EffortName = "medium"
    """How hard a planner searches, if it searches."""
    tokens_per_slot: float = 0.0
    """For step time: tokens that take as long as reading one expert's weights. A GPU's step takes as long as its
    tokens or its slots, whichever is longer."""
    layer_experts: tuple[int, ...] | None = None
    """Experts of every layer, if layers differ; None if each has E."""

    def __post_init__(self) -> None:
        if self.counts_SLE.ndim != 3:
            raise BadInput(f"counts must be [steps, layers, experts], got shape {list(self.counts_SLE.shape)}")
        object.__setattr__(self, "layer_experts", checked_layer_experts(self.layer_experts, self.counts_SLE))
        if len(self.expert_bytes_L) != self.layers:
            raise BadInput(f"{len(self.expert_bytes_L)} expert sizes for {self.layers} layers")
        if self.topology.gpus > MOST_GPUS:
            raise BadInput(
                f"{self.topology.gpus} GPUs: at most {MOST_GPUS} are planned for; give the GPUs that share the experts "
                f"of one copy of the model"
            )
        if self.budget_bytes < 0:
            raise BadInput(f"budget must not be negative, got {self.budget_bytes} bytes")
        if self.step_weight_S is not None and self.step_weight_S.shape != self.counts_SLE.shape[:1]:
            raise BadInput(f"{self.step_weight_S.size} step weights for {len(self.counts_SLE)} steps")
        if not 0 <= self.tokens_per_slot < math.inf:
            raise BadInput(f"tokens per slot must be a number of at least 0, got {self.tokens_per_slot}")
        if self.layer_experts is not None:
            if self.groups != 1:
                raise Unsupported(
                    f"expert groups: layers have {min(self.layer_experts)} to {max(self.layer_experts)} experts, and "
                    f"groups are planned only for layers of the same number; plan without groups"
                )
            return
        if self.groups < 1 or self.experts % self.groups:
            raise BadInput(
                f"{self.experts} experts do not divide into {self.groups} groups; give a divisor of {self.experts}"
            )
        if self.groups > 1 and self.groups % self.topology.nodes:
            raise BadInput(
                f"{self.groups} groups cannot be spread evenly over {self.topology.nodes} nodes; "
                f"give a number of nodes that divides the groups"
            )

    @property
    def layers(self) -> int:
        return self.counts_SLE.shape[1]

    @property
    def experts(self) -> int:
        """E, if layers are alike: what needs it plans `kinds` one by one. Raises Unsupported if layers differ."""
        if self.layer_experts is not None:
            raise Unsupported(
                f"layers have {min(self.layer_experts)} to {max(self.layer_experts)} experts: this works only for "
                f"layers of the same number"
            )
        return self.counts_SLE.shape[2]

    @property
    def experts_L(self) -> tuple[int, ...]:
        """Experts of every layer."""
        return self.layer_experts or (self.counts_SLE.shape[2],) * self.layers

    @property
    def kinds(self) -> tuple[np.ndarray, ...]:
        """Numbers of the layers that have the same number of experts, in order of first appearance."""
        experts_L = np.array(self.experts_L)
        return tuple(np.flatnonzero(experts_L == experts) for experts in dict.fromkeys(self.experts_L))

    @property
    def has_groups_to_keep(self) -> bool:
        """Whether groups constrain placements: only several groups on several nodes do."""
        return self.groups > 1 and self.topology.nodes > 1

    def on_steps(self, chosen: np.ndarray | slice) -> PlanningProblem:
        """The same problem on some of its steps."""
        weight_S = None if self.step_weight_S is None else self.step_weight_S[chosen]
        return replace(self, counts_SLE=self.counts_SLE[chosen], step_weight_S=weight_S)

    def on_layers(self, chosen: np.ndarray) -> PlanningProblem:
        """The same problem on some of its layers, given by number, with the same budget."""
        sizes_L = tuple(self.expert_bytes_L[layer] for layer in chosen.tolist())
        experts_L = tuple(self.experts_L[layer] for layer in chosen.tolist())
        counts_SLE = self.counts_SLE[:, chosen][:, :, : max(experts_L)]
        return replace(self, counts_SLE=counts_SLE, expert_bytes_L=sizes_L, layer_experts=experts_L)


def checked_layer_experts(layer_experts: tuple[int, ...] | None, counts_SLE: np.ndarray) -> tuple[int, ...] | None:
    """`layer_experts` of counts, None if all layers have as many experts as the counts.

    Raises BadInput unless there is a number for every layer, the largest is that of the counts, and experts that a
    layer does not have are without tokens.
    """
    _, layers, experts = counts_SLE.shape
    if layer_experts is None or layer_experts == (experts,) * layers:
        return None
    if len(layer_experts) != layers:
        raise BadInput(f"{len(layer_experts)} numbers of experts for {layers} layers")
    if min(layer_experts) < 1 or max(layer_experts) != experts:
        raise BadInput(
            f"layers have {min(layer_experts)} to {max(layer_experts)} experts, counts are of {experts}: numbers must "
            f"be at least 1, and the largest that of the counts"
        )
    beyond_LE = np.arange(experts) >= np.array(layer_experts)[:, None]
    wrong = np.argwhere((counts_SLE != 0) & beyond_LE)
    if wrong.size:
        step, layer, expert = wrong[0].tolist()
        raise BadInput(
            f"step {step} has tokens for expert {expert} of layer {layer}, which has only {layer_experts[layer]} "
            f"experts ({len(wrong)} such counts)"
        )
    return tuple(int(number) for number in layer_experts)


@dataclass(frozen=True, eq=False)
class BenefitCurves:
    """What replicas buy, layer by layer, with the placement that will be used."""

    candidates_C: tuple[int, ...]
    """Replica counts tried, ascending from 0."""
    balancedness_LC: np.ndarray
    """Balancedness of every layer at every candidate, in 0..1."""
    score_LC: np.ndarray | None = None
    """What allocation maximises if not balancedness: `craftc.solvers.objectives.score`."""

    @property
    def value_LC(self) -> np.ndarray:
        """Score, or balancedness if there is no score."""
        return self.balancedness_LC if self.score_LC is None else self.score_LC

    @property
    def benefit_LC(self) -> np.ndarray:
        """T[l][r]: value gained over no replicas."""
        return self.value_LC - self.value_LC[:, :1]


@dataclass(frozen=True)
class Allocation:
    """Replicas per layer under the budget."""

    replicas_L: tuple[int, ...]
    """Replicas of every layer."""
    status: Status
    """`optimal` only if proven for the given curves."""
    objective: float
    """Sum over layers of the benefit of the chosen counts."""
    bound: float
    """Upper bound on the objective of any allocation of the same curves and budget."""
    solver: str
    """Name and version."""
    seconds: float = field(compare=False)
    """Wall-clock time of the solve."""

    @property
    def gap(self) -> float:
        """(bound - objective) / |objective|, at least 0."""
        return max(0.0, self.bound - self.objective) / max(abs(self.objective), 1e-12)


class Planner(ABC):
    """A way to plan, and what it can do. Stages are separate so that each can be shown, timed and replaced."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the registry, in plans and in tables."""

    @property
    def objectives(self) -> frozenset[ObjectiveName]:
        """Objectives that it can optimise."""
        return frozenset({"balancedness"})

    @property
    def weighs_steps(self) -> bool:
        """Whether it uses `PlanningProblem.step_weight_S`."""
        return False

    @property
    def keeps_groups(self) -> bool:
        """Whether it keeps every one of `PlanningProblem.groups` on one node."""
        return False

    @property
    def per_layer(self) -> bool:
        """Whether it may give layers different numbers of replicas."""
        return True

    @property
    def sketches(self) -> bool:
        """Whether it has `sketch`; its curves can then be judged on steps left out of planning."""
        return False

    def sketch(self, problem: PlanningProblem, layer_B: np.ndarray, replicas_B: np.ndarray) -> np.ndarray:
        """`expert_BGK`, padded with -1: placements of single layers, found quickly, for many replica counts at once.

        layer_B: the layer of every placement; replicas_B: its copies beyond the first of every expert. Raises
        Unsupported if the planner does not sketch."""
        raise Unsupported(f"planner {self.name} does not sketch: ask `sketches` first")

    def at_effort(self, effort: EffortName) -> Planner:
        """The same planner, searching as hard as `effort` says; `self` if it does not search."""
        return self

    @abstractmethod
    def estimate(self, problem: PlanningProblem) -> BenefitCurves:
        """Benefit curves, made with the placement this planner will use."""

    @abstractmethod
    def allocate(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """Replicas per layer within `problem.budget_bytes`."""

    def knapsack(self, problem: PlanningProblem, curves: BenefitCurves) -> Allocation:
        """What `allocate` would choose by `curves` alone, without placing anything."""
        return self.allocate(problem, curves)

    @abstractmethod
    def place(self, problem: PlanningProblem, replicas_L: tuple[int, ...]) -> tuple[Placement, ...]:
        """One placement per layer with exactly `experts + replicas` slots.

        Between GPUs, the slots of a layer differ by at most one, and bytes over all layers by at most one expert."""
