"""The Python API: `craftc.inspect`, `craftc.profile`, `craftc.plan`, `craftc.plan_per_phase`, `craftc.optimize`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from craftc.budget import parse_budget
from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import layers_of_loads
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.base import Pass, Progress
from craftc.passes.compilation import NearMiss, PassTiming, Verification
from craftc.passes.pipelines import analysed, optimizing, phases_found, planned, profiled, run_on_model
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.replication_plan import ReplicationPlan
from craftc.topology import Topology

if TYPE_CHECKING:  # planning from loads must not import torch, and only goodput needs the serving model
    from torch import fx, nn
    from torch.export import ExportedProgram

    from craftc.serving.serving_model import ServingModel

Batches = Iterable[dict[str, Any]] | Callable[[], Iterable[dict[str, Any]]]
"""Calibration batches: a list, or a function that restarts the stream."""
DEFAULTS = PlanningOptions()


@dataclass(frozen=True, eq=False)
class Inspection:
    """The MoE layers of a model, and what almost is one."""

    graph: fx.GraphModule
    """The traced model; experts nodes carry `node.meta["moe"]`."""
    layers: tuple[MoELayer, ...]
    """By ordinal."""
    near_misses: tuple[NearMiss, ...]
    """Modules that are almost an MoE layer, each with the reason why not."""


@dataclass(frozen=True)
class PhasePlan:
    """A plan for one phase of the loads, such as prefill or decode, for servers of its own."""

    name: str
    """What the names of its steps have in common, or `phase-1`, `phase-2`, ..."""
    steps: tuple[int, ...]
    """Numbers of its steps from 0, ascending; the plan is made from these alone."""
    plan: ReplicationPlan
    """Copies and placement."""
    gain: float
    """Balancedness that a plan of its own gains over one plan for all, on its steps left out of planning."""


@dataclass(frozen=True, eq=False)
class Optimized:
    """A model rewritten according to a plan, and what it was made from."""

    model: fx.GraphModule
    """Computes what the original computes, with replicated experts on virtual GPUs; shares the original's weights."""
    plan: ReplicationPlan
    """Copies and placement."""
    loads: LoadProfile
    """The loads that were measured or given."""
    verification: Verification
    """Measured differences from the original."""
    timings: tuple[PassTiming, ...]
    """Time that every pass took."""


def inspect(model: nn.Module, example_inputs: dict[str, Any], *, on_pass: Progress | None = None) -> Inspection:
    """Trace a model and find its MoE layers.

    model: as it is; it is not changed, and may be on the meta device.
    example_inputs: keyword arguments of one call.
    on_pass: called with the name of every pass as it starts.

    Raises BadInput if the model has nothing like an MoE layer or cannot run on its inputs, Unsupported if it
    cannot be traced.
    """
    found = analysed(model, WorkloadInputs(example_inputs), on_pass=on_pass)
    return Inspection(found.graph, found.layers, found.near_misses)


def profile(
    model: nn.Module,
    example_inputs: dict[str, Any],
    calibration_inputs: Batches | None = None,
    *,
    max_steps: int | None = None,
    mask_input: str | None = "attention_mask",
    on_pass: Progress | None = None,
) -> LoadProfile:
    """Run calibration batches through a model and count the tokens that every expert gets, step by step.

    model: as it is; it is not changed.
    example_inputs: keyword arguments of one call; the only step if there are no batches.
    calibration_inputs: batches of keyword arguments, each one step: a list, or a function that restarts the stream.
    max_steps: batches to run at most, at least 1; None runs all.
    mask_input: the input `[batch, sequence]` that is 0 for padding, whose tokens are not counted; None counts all.
    on_pass: called with the name of every pass as it starts.

    Raises BadInput naming the batch at fault.
    """
    from craftc.passes.analysis.profile_loads import ProfileLoads

    profiling = ProfileLoads(mask_input=mask_input, max_steps=max_steps, model_name=type(model).__name__)
    return profiled(model, _workload(example_inputs, calibration_inputs), profiling, on_pass=on_pass).loads


def plan(
    loads: LoadProfile,
    topology: Topology,
    budget: str,
    *,
    expert_bytes: int | None = None,
    layers: Sequence[MoELayer] | None = None,
    options: PlanningOptions | None = None,
    serving: ServingModel | None = None,
    on_pass: Progress | None = None,
) -> ReplicationPlan:
    """Plan copies and placement for measured loads: without a model, and without importing torch.

    loads: tokens per step, layer and expert.
    topology: GPUs and nodes to plan for.
    budget: memory for replicas: `64GiB` (all GPUs together), `1GiB/gpu`, `8replicas/gpu`, `12.5%` (of the experts'
    memory), or `auto`, as many as pay.
    expert_bytes: bytes of one expert, if all layers' experts have the same size.
    layers: the MoE layers, instead of `expert_bytes`, if sizes differ or names matter; with `serving` its model's.
    options: how to plan; by default for balancedness, with `serving` for step time.
    serving: the server that the plan is for: `auto` is then decided by goodput, and the plan states its own.
    on_pass: called with the name of every pass as it starts.

    Raises BadInput on input that cannot be used, Unsupported if options cannot be combined, Infeasible if no plan fits.
    """
    if serving is not None:
        from craftc.serving.planning import plan_for

        return plan_for(serving, loads, topology, parse_budget(budget), layers, options, on_pass)
    known = layers_of_loads(loads, expert_bytes) if layers is None else layers
    request = PlanningRequest(topology, parse_budget(budget), options or DEFAULTS)
    return planned(request, loads, known, on_pass=on_pass).plan


def plan_per_phase(
    loads: LoadProfile,
    topology: Topology,
    budget: str,
    *,
    expert_bytes: int | None = None,
    layers: Sequence[MoELayer] | None = None,
    options: PlanningOptions = DEFAULTS,
    on_pass: Progress | None = None,
) -> tuple[PhasePlan, ...]:
    """Plan each phase of the loads for servers of its own: prefill and decode route differently.

    loads: tokens per step, layer and expert. Steps are told apart by their names (`prefill_0`, `decode_0`, ...), or by
    their loads.
    topology: GPUs and nodes of the servers of each phase.
    budget: memory for the replicas of each plan, as in `craftc.plan`.
    expert_bytes: bytes of one expert, if all layers' experts have the same size.
    layers: the MoE layers, instead of `expert_bytes`, if sizes differ or names matter.
    options: how to plan.
    on_pass: called with the name of every pass as it starts.

    Raises BadInput on input that cannot be used or has no phases, Unsupported if options cannot be combined, Infeasible
    if no plan fits.
    """
    known = layers_of_loads(loads, expert_bytes) if layers is None else layers
    request = PlanningRequest(topology, parse_budget(budget), options)
    found = phases_found(request, loads, known, on_pass=on_pass)
    plans = [planned(request, loads, known, phase=phase, on_pass=on_pass).plan for phase in found.phases]
    return tuple(
        PhasePlan(phase.name, phase.steps, made, gain)
        for phase, made, gain in zip(found.phases, plans, found.gain_P, strict=True)
    )


def optimize(
    model: nn.Module | ExportedProgram,
    example_inputs: dict[str, Any],
    topology: Topology,
    budget: str,
    *,
    calibration_inputs: Batches | None = None,
    loads: LoadProfile | None = None,
    options: PlanningOptions = DEFAULTS,
    on_pass: Progress | None = None,
) -> Optimized:
    """Trace, profile (unless loads are given), plan, rewrite and verify a model.

    model: as it is; it is not changed. A `torch.export.ExportedProgram` is verified in its own dtype only.
    example_inputs: keyword arguments of one call, on which outputs are compared.
    topology: GPUs and nodes to plan for.
    budget: memory for replicas, as in `craftc.plan`.
    calibration_inputs: batches of keyword arguments, each one step of the profile: a list, or a function that restarts
    the stream; without them, the example inputs are the only step.
    loads: measured loads, instead of profiling.
    options: how to plan.
    on_pass: called with the name of every pass as it starts.

    Raises BadInput or Unsupported on input that cannot be used, Infeasible if no plan fits, and VerificationFailed
    if the rewritten model differs from the original.
    """
    from craftc.passes.analysis.profile_loads import ProfileLoads

    request = PlanningRequest(topology, parse_budget(budget), options)
    traceable, verifying = _traceable(model)
    profiling = ProfileLoads(model_name=type(model).__name__) if loads is None else None
    inputs = _workload(example_inputs, calibration_inputs)
    done = run_on_model(optimizing(request, profiling, verifying), traceable, inputs, loads, on_pass=on_pass)
    return Optimized(done.graph, done.plan, done.loads, done.verification, done.timings)


def _traceable(model: nn.Module | ExportedProgram) -> tuple[nn.Module, Pass | None]:
    """The module to trace, and how to verify its rewrite if that needs more than the default."""
    from torch import nn

    if isinstance(model, nn.Module):
        return model, None
    from craftc.backend.exported import own_dtypes, restored_model
    from craftc.passes.rewriting.verify_rewrite import VerifyRewrite

    return restored_model(model), VerifyRewrite(dtypes=own_dtypes(model))


def _workload(example_inputs: dict[str, Any], batches: Batches | None) -> WorkloadInputs:
    if batches is None or callable(batches):
        return WorkloadInputs(example_inputs, batches)
    if isinstance(batches, Iterator):
        raise BadInput(
            "calibration_inputs is an iterator, which runs only once: give a list, or the function that makes it"
        )
    return WorkloadInputs(example_inputs, lambda: batches)
