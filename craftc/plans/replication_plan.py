"""The replication plan: copies and placement for every layer. Files are read and written by `craftc.plans.file`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from craftc.models.moe_layer import MoELayer
from craftc.solvers.problem import Placement, Shares
from craftc.topology import Topology

LEAST_LOSS = 0.01
"""Balancedness by which replicas must buy less on unseen steps before that is called over-fitting."""

PlanObjective = Literal["balancedness", "step-time", "worst-workload"]
"""Balancedness; the time that steps wait for their straggler; or balancedness of the workload that has least of it."""


@dataclass(frozen=True)
class LayerPlan:
    """Copies and placement of one layer."""

    name: str
    """Path of the experts module."""
    index: int
    """Decoder block index."""
    experts: int
    """Number of logical experts E."""
    top_k: int | None
    """Experts per token, where known."""
    expert_bytes: int
    """Bytes of one expert."""
    replicas: int
    """Copies beyond the first of every expert: slots - E."""
    placement: Placement
    """Expert ids of every GPU in slot order, length G."""
    shares: Shares | None = None
    """Share of its expert's tokens for every slot, shaped like `placement`, each in 0..1, summing to 1 per expert;
    None means that copies share evenly."""

    @cached_property
    def copies_E(self) -> tuple[int, ...]:
        """Copies of every expert, length E."""
        counts = [0] * self.experts
        for gpu in self.placement:
            for expert in gpu:
                counts[expert] += 1
        return tuple(counts)


@dataclass(frozen=True)
class PlanBudget:
    """The memory asked for and spent on replicas, over all GPUs."""

    requested: str
    """As the user wrote it."""
    bytes: int
    """The request in bytes, all GPUs together."""
    spent_bytes: int
    """Bytes of all replicas in the plan, at most `bytes`."""


@dataclass(frozen=True)
class PlannerEstimate:
    """One planner's result on the plan's own loads."""

    planner: str
    """`contiguous`, `placement`, `eplb`, `craft` or `craftc`."""
    balancedness: float
    """Mean over layers of the mean over steps of mean GPU load / max GPU load, in 0..1."""
    replicas_per_gpu: float
    """Replicas over all layers / G."""
    bytes_per_gpu: float
    """Replica bytes over all layers / G."""
    objective: float | None = None
    """Where the plan was made for another objective than balancedness: step time in units of perfect balance, at least
    1, lower is better; or the balancedness of the worst workload, in 0..1."""


@dataclass(frozen=True)
class LayerEstimate:
    """One layer's balancedness on the plan's own loads."""

    contiguous: float
    """Experts in order, no replicas, in 0..1."""
    placement_only: float
    """The plan's planner without replicas, in 0..1."""
    planned: float
    """This plan, in 0..1."""
    bound: float
    """No placement with this many replicas exceeds this, in 0..1."""


@dataclass(frozen=True)
class CrossValidation:
    """What this plan's replica counts reach on steps they were planned from and on steps left out of planning.

    The steps were dealt into folds. Each fold was left out once: copies were placed anew on the other steps, with the
    plan's replica counts and with none, by the plan's planner at its lowest search effort, and judged on both.
    """

    folds: int
    """Parts of the steps, at least 2."""
    seen: float
    """Balancedness with replicas on the steps planned from, in 0..1."""
    unseen: float
    """Balancedness with replicas on the steps left out, in 0..1."""
    placement_only_seen: float
    """Balancedness without replicas on the steps planned from, in 0..1."""
    placement_only_unseen: float
    """Balancedness without replicas on the steps left out, in 0..1."""

    @property
    def gain_seen(self) -> float:
        """Balancedness that replicas buy on the steps planned from."""
        return self.seen - self.placement_only_seen

    @property
    def gain_unseen(self) -> float:
        """Balancedness that replicas buy on the steps left out."""
        return self.unseen - self.placement_only_unseen

    @property
    def overfits(self) -> bool:
        """Replicas buy less than half as much on the steps left out, and at least 0.01 balancedness less."""
        return self.gain_unseen < self.gain_seen / 2 and self.gain_seen - self.gain_unseen >= LEAST_LOSS


@dataclass(frozen=True)
class Estimate:
    """What the plan is worth, beside the baselines, on the loads it was made from."""

    balancedness: float
    """This plan, in 0..1."""
    bound: float
    """No plan with these replica counts exceeds this, in 0..1."""
    predicted: float
    """The value of the benefit curves on the plan's own loads for the chosen counts, in 0..1."""
    planners: tuple[PlannerEstimate, ...]
    """Baselines, other planners and, last, this plan, all on the same loads."""
    layers: tuple[LayerEstimate, ...]
    """Per layer, length L."""
    cross_validation: CrossValidation | None = None
    """Seen beside unseen steps; None for a single step, and for a plan made from another one."""


@dataclass(frozen=True)
class Provenance:
    """What the plan was made from and by."""

    craftc: str
    """Version of craftc."""
    loads: str
    """`sha256:` and the fingerprint of the loads."""
    model: str | None
    """`sha256:` and the fingerprint of the model, or None where no model was given."""
    planner: str
    """`craft`, `eplb` or `craftc`."""
    solver: str
    """Solver of the allocation and its version."""
    status: str
    """`optimal` (proven), `feasible` (stopped early) or `heuristic` (no proof is possible)."""
    gap: float | None
    """Relative gap between the allocation's objective and its bound; 0 when optimal, None when there is no bound."""
    objective: PlanObjective = "balancedness"
    """What the plan was made to be good at."""
    curves: Literal["own", "cross-validated"] = "own"
    """Benefit curves of the allocation: on the plan's own loads, or on steps left out of planning."""


@dataclass(frozen=True)
class ReplicationPlan:
    """The one result everything else is made from."""

    topology: Topology
    """GPUs and nodes."""
    budget: PlanBudget
    """Memory asked for and spent."""
    layers: tuple[LayerPlan, ...]
    """One per MoE layer, by ordinal."""
    estimate: Estimate | None
    """Balancedness and baselines on the plan's own loads; None for a plan read from another system's file."""
    provenance: Provenance
    """Loads, model, solver."""
    groups: int = 1
    """Groups of contiguous experts, each with all its copies on one node; 1 is no such rule."""

    @property
    def moe_layers(self) -> tuple[MoELayer, ...]:
        """The layers that the plan was made for, by ordinal."""
        return tuple(
            MoELayer(layer.name, layer.index, layer.experts, layer.expert_bytes, layer.top_k) for layer in self.layers
        )

    @property
    def replicas(self) -> int:
        """Replicas over all layers."""
        return sum(layer.replicas for layer in self.layers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on this plan, one line each."""
        checked = None if self.estimate is None else self.estimate.cross_validation
        if checked is None or not checked.overfits:
            return ()
        return (
            f"over-fitting: replicas buy {checked.gain_seen:.3f} balancedness on the steps planned from, but "
            f"{checked.gain_unseen:.3f} on steps left out ({checked.folds} folds): record more steps like those to "
            f"come, or spend less",
        )


def layer_plan(layer: MoELayer, placement: Placement) -> LayerPlan:
    """The plan of one layer with copies sharing evenly."""
    replicas = sum(len(gpu) for gpu in placement) - layer.experts
    return LayerPlan(layer.name, layer.index, layer.experts, layer.top_k, layer.expert_bytes, replicas, placement)
