"""The arms of a comparison: placements by planners and baselines, judged on loads that they were not made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from craftc.budget import Budget, most_replicas
from craftc.errors import BadInput, Infeasible
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import recorded_layers
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import Progress
from craftc.passes.pipelines import placed_within
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.serving.arm import Arm, measured_arm
from craftc.serving.held_out import HeldOut
from craftc.serving.objective import tokens_per_slot
from craftc.serving.serving_model import ServingModel
from craftc.solvers.planners.eplb import uniform_replicas
from craftc.solvers.planners.published import placement_only, published_eplb
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import PlanningProblem
from craftc.topology import Topology


def planned_arms(
    planner: str,
    replicas: Sequence[int],
    split: HeldOut,
    server: ServingModel,
    topology: Topology,
    on_pass: Progress | None = None,
) -> dict[int, Arm]:
    """Arms of `planner`, planning for a server: see `arms_with`."""
    options = serving_options(PlanningOptions(planner=planner), split.planned, server, topology)
    return arms_with(options, replicas, split, server, topology, on_pass)


def arms_with(
    options: PlanningOptions,
    replicas: Sequence[int],
    split: HeldOut,
    server: ServingModel,
    topology: Topology,
    on_pass: Progress | None = None,
) -> dict[int, Arm]:
    """An arm for each number of replicas per GPU that the planner can do with, by that number, ascending.

    0 is tried too, and the smallest number of a planner that gives every layer the same. Numbers that there is no room
    for are left out. Raises BadInput for a number below 0, or if there is no number that the planner can do with.
    """
    for count in replicas:
        if type(count) is not int or count < 0:
            raise BadInput(f"replicas per GPU must be whole numbers of at least 0, got {count!r}")
    layers = recorded_layers(split.planned, server.model)
    room = most_replicas(layers, topology) // topology.gpus
    per_layer = planner_named(options.planner).per_layer
    always = {0} if per_layer else {0, _uniform_number(layers, topology)}
    wanted = sorted(count for count in {*replicas, *always} if count <= room)
    budgets = {count: count * topology.gpus * max(layer.expert_bytes for layer in layers) for count in wanted}
    groups = [wanted] if per_layer else [[count] for count in wanted]
    arms, refused = {}, ""
    for together in groups:
        request = PlanningRequest(topology, replicas_budget(str(together[-1]), together[-1]), options)
        try:
            placed = placed_within(
                request, split.planned, layers, [budgets[count] for count in together], on_pass=on_pass
            )
        except Infeasible as error:
            refused = str(error)
            continue
        for count, placements in zip(together, placed, strict=True):
            arms[count] = measured_arm(options.planner, placements, split.judged, server, topology)
    if not arms:
        raise BadInput(f"none of {', '.join(map(str, wanted))} replicas per GPU can be planned: {refused}")
    return arms


def _uniform_number(layers: Sequence[MoELayer], topology: Topology) -> int:
    """The smallest number of replicas per GPU with which all layers have equal slots on all GPUs, in whole experts."""
    return -(-sum(uniform_replicas(layer.experts, topology) for layer in layers) // topology.gpus)


def baseline_arms(split: HeldOut, server: ServingModel, topology: Topology) -> tuple[Arm, Arm]:
    """Placement only, and EPLB as published."""
    layers = recorded_layers(split.planned, server.model)
    problem = PlanningProblem(
        split.planned.counts_SLE,
        topology,
        tuple(layer.expert_bytes for layer in layers),
        budget_bytes=0,
        layer_experts=split.planned.layer_experts,
    )
    return (
        measured_arm("none", placement_only(problem), split.judged, server, topology),
        measured_arm("eplb", published_eplb(problem), split.judged, server, topology),
    )


def serving_options(
    options: PlanningOptions, loads: LoadProfile, server: ServingModel, topology: Topology
) -> PlanningOptions:
    """`options` with the objective that a server waits for, step time, if the planner can plan for it."""
    if "step-time" not in planner_named(options.planner).objectives:
        return options
    return replace(options, objective="step-time", tokens_per_slot=tokens_per_slot(server, loads, topology))


def replicas_budget(text: str, replicas_per_gpu: int) -> Budget:
    """A budget of replicas per GPU that is called `text`."""
    return Budget(text, "replicas_per_gpu", Fraction(replicas_per_gpu))
