"""The replication plan: copies and placement for every layer. Files are read and written by `craftc.plans.file`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from craftc.models.moe_layer import MoELayer
from craftc.solvers.problem import Placement, Shares
from craftc.topology import Topology

LEAST_LOSS = 0.01
"""Smallest loss of gained balancedness on unseen steps that counts as over-fitting."""

PlanObjective = Literal["balancedness", "step-time", "worst-workload"]
"""Balancedness; the time that steps wait for their slowest GPU; or balancedness of the workload that has the least."""


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
    """Experts per token, None if unknown."""
    expert_bytes: int
    """Bytes of one expert."""
    replicas: int
    """Copies beyond the first one of every expert: slots - E."""
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
    """The request in bytes, for all GPUs in total."""
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
    """Balancedness of the worst workload, in 0..1, in plans made for it; otherwise None."""
    step_time: float | None = None
    """Time of the slowest GPU, summed over steps and layers, in units of perfect balance: at least 1, lower is better.
    None in plan files written before it was stated."""


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
    """Upper bound for any placement with this many replicas, in 0..1."""


@dataclass(frozen=True)
class CrossValidation:
    """What this plan's replica counts reach on steps that they were planned from and on steps left out of planning.

    The steps were split into folds, and each fold was left out once: the plan's planner, at its lowest search effort,
    placed copies for the other steps, with the plan's replica counts and with none, and was judged on both parts.
    """

    folds: int
    """Number of folds, at least 2."""
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
        """Balancedness gained by replicas on the steps planned from."""
        return self.seen - self.placement_only_seen

    @property
    def gain_unseen(self) -> float:
        """Balancedness gained by replicas on the steps left out."""
        return self.unseen - self.placement_only_unseen


@dataclass(frozen=True)
class PredictedGoodput:
    """What the plan is worth on a server, on the loads that it was made from."""

    cluster: str
    """Name of the cluster."""
    fingerprint: str
    """`sha256:` and the fingerprint of the cluster's numbers and their sources."""
    input: int
    """Tokens of a prompt."""
    output: int
    """Tokens generated for a request."""
    phase: str
    """What runs on the server: `mixed`, `prefill` or `decode`."""
    requests_per_s: float
    """Requests per second of a server that always has some waiting; 0 if none fits the KV cache."""
    over_none: float | None
    """Times the goodput of placement only; None if that serves none."""
    over_eplb: float | None
    """Times the goodput of EPLB as published; None if its replicas leave no KV cache."""
    kv_lost: float
    """Part of the KV cache that the replicas take."""


@dataclass(frozen=True)
class Estimate:
    """What the plan is worth on the loads that it was made from, next to the baselines."""

    balancedness: float
    """This plan, mean over layers, in 0..1."""
    bound: float
    """Upper bound for any plan with these replica counts, in 0..1."""
    predicted: float
    """What the benefit curves predicted for the chosen counts, in 0..1."""
    planners: tuple[PlannerEstimate, ...]
    """Baselines, other planners and, in the end, this plan, all on the same loads."""
    layers: tuple[LayerEstimate, ...]
    """One per layer, length L."""
    cross_validation: CrossValidation | None = None
    """Steps planned from and steps left out; None for a single step, and for a plan made from the plan in use."""
    goodput: PredictedGoodput | None = None
    """What the plan is worth on the cluster that it was made for; None if none was given."""


@dataclass(frozen=True)
class Provenance:
    """What the plan was made from, and how."""

    craftc: str
    """Version of craftc."""
    loads: str
    """`sha256:` and the fingerprint of the loads."""
    model: str | None
    """`sha256:` and the fingerprint of the model, or None if no model was given."""
    planner: str
    """Name of the planner: `craft`, `eplb` or `craftc`."""
    solver: str
    """Solver that allocated the replicas, and its version."""
    status: str
    """`optimal` (proven), `feasible` (stopped early) or `heuristic` (the method proves nothing)."""
    gap: float | None
    """Relative gap between the allocation's objective and its bound; 0 if optimal, None without a bound."""
    objective: PlanObjective = "balancedness"
    """What the plan was optimised for."""
    curves: Literal["own", "cross-validated"] = "own"
    """Loads that the benefit curves were measured on: the plan's own, or steps left out of planning."""
    tokens_per_slot: float = 0.0
    """For step time: tokens that take as long as reading one expert's weights; 0 if only tokens count."""


@dataclass(frozen=True)
class ReplicationPlan:
    """Copies and placement of every layer: the one result that everything else is made from."""

    topology: Topology
    """GPUs and nodes."""
    budget: PlanBudget
    """Memory requested and spent."""
    layers: tuple[LayerPlan, ...]
    """One per MoE layer, by ordinal."""
    estimate: Estimate | None
    """Balancedness and baselines on the plan's own loads; None for a plan read from another system's file."""
    provenance: Provenance
    """Where the plan comes from: loads, model, planner, solver."""
    groups: int = 1
    """Groups of contiguous experts that each have all their copies on one node; 1 means no grouping."""

    @property
    def moe_layers(self) -> tuple[MoELayer, ...]:
        """The layers that the plan was made for, by ordinal."""
        return tuple(
            MoELayer(layer.name, layer.index, layer.experts, layer.expert_bytes, layer.top_k) for layer in self.layers
        )

    @property
    def replicas(self) -> int:
        """Number of replicas in all layers."""
        return sum(layer.replicas for layer in self.layers)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on this plan, one line each."""
        checked = None if self.estimate is None else self.estimate.cross_validation
        if checked is None or self.estimate is None:
            return ()
        in_order = next((row.balancedness for row in self.estimate.planners if row.planner == "contiguous"), 0.0)
        placed_seen, placed_unseen = checked.placement_only_seen - in_order, checked.placement_only_unseen - in_order
        steps = f"on steps left out ({checked.folds} folds): record more steps like the ones to come"
        warnings = []
        if overfits(placed_seen, placed_unseen, 1 / 4):
            warnings.append(
                f"over-fitting: placing experts gains {placed_seen:.3f} balancedness over experts in order on the "
                f"steps planned from, but only {placed_unseen:.3f} {steps}"
            )
        if overfits(checked.gain_seen, checked.gain_unseen, 1 / 2):
            warnings.append(
                f"over-fitting: replicas gain {checked.gain_seen:.3f} balancedness on the steps planned from, but only "
                f"{checked.gain_unseen:.3f} {steps}, or spend less"
            )
        return tuple(warnings)


def overfits(seen: float, unseen: float, part: float) -> bool:
    """Whether less than `part` of a gain in balancedness is left on unseen steps, and at least 0.01 is lost."""
    return unseen < seen * part and seen - unseen >= LEAST_LOSS


def layer_plan(layer: MoELayer, placement: Placement) -> LayerPlan:
    """The plan of one layer whose copies share tokens evenly."""
    replicas = sum(len(gpu) for gpu in placement) - layer.experts
    return LayerPlan(layer.name, layer.index, layer.experts, layer.top_k, layer.expert_bytes, replicas, placement)
