"""Plan again from a plan in use, moving no more weights than allowed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from craftc.errors import BadInput
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.passes.planning.writing.written_plan import written_plan
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import Placement, PlanningProblem
from craftc.solvers.replanning.replan import OldLayer, replan
from craftc.solvers.verifier import PlacedLayer, group_violations

ANY_MOVE = 2**63
"""More bytes than any model has: no limit."""


@dataclass(frozen=True)
class ReplanReplicas(Pass):
    """Replaces `PlaceReplicas` if a plan is in use already."""

    name: ClassVar[str] = "replan_replicas"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "layers", "problem", "curves", "allocation")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    current_plan: ReplicationPlan = field(repr=False)
    """The plan in use."""
    max_move_bytes: int
    """Bytes of weights that GPUs may receive in total, at least 0."""

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput if the old plan is for other layers or GPUs, Infeasible if it moves too much."""
        problem, allocation = compilation.problem, compilation.allocation
        _check_same_model(self.current_plan, compilation)
        _check_groups(self.current_plan, problem)
        planner = planner_for(compilation.request.options.planner, problem)
        old_L = tuple(OldLayer(layer.placement, layer.shares) for layer in self.current_plan.layers)
        found = replan(problem, planner, allocation.replicas_L, old_L, self.max_move_bytes)
        layers = tuple(map(_replanned_layer, self.current_plan.layers, found.placements))
        # What was proven for the allocation does not hold for replicas that were kept to save moves.
        placed = replace(allocation, replicas_L=tuple(layer.replicas for layer in layers), status="heuristic")
        return updated(compilation, plan=written_plan(compilation, planner, placed, layers))


def _replanned_layer(old: LayerPlan, placement: Placement) -> LayerPlan:
    """The old layer if nothing changed; shares belong to the placement that they were made for."""
    if placement == old.placement:
        return old
    return replace(old, placement=placement, replicas=sum(map(len, placement)) - old.experts, shares=None)


def _check_same_model(old: ReplicationPlan, compilation: Compilation) -> None:
    topology, layers = compilation.request.topology, compilation.layers
    if old.topology != topology:
        raise BadInput(
            f"old plan is for {old.topology.gpus} GPUs in {old.topology.nodes} nodes, asked for are {topology.gpus} in "
            f"{topology.nodes}: replan for the same ones, or plan without --from"
        )
    if len(old.layers) != len(layers):
        raise BadInput(f"old plan has {len(old.layers)} MoE layers, the model has {len(layers)}: give its own plan")
    for before, layer in zip(old.layers, layers, strict=True):
        known = (before.name, before.experts, before.expert_bytes)
        if known != (layer.name, layer.experts, layer.expert_bytes):
            raise BadInput(
                f"old plan has layer {before.name} with {before.experts} experts of {before.expert_bytes} bytes, the "
                f"model has {layer.name} with {layer.experts} of {layer.expert_bytes}: give the plan of this model"
            )


def _check_groups(old: ReplicationPlan, problem: PlanningProblem) -> None:
    layers = [
        PlacedLayer(layer.name, layer.experts, layer.expert_bytes, layer.replicas, layer.placement)
        for layer in old.layers
    ]
    found = group_violations(layers, old.topology, problem.groups)
    if found:
        raise BadInput(f"old plan does not keep {problem.groups} groups on nodes ({found[0]}): plan without --from")
