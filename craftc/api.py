"""The Python API: `craftc.inspect`, `craftc.profile`, `craftc.plan`, `craftc.optimize`. Frozen values, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.base import Pass, PassTiming
from craftc.passes.compilation import Compilation, NearMiss, Verification
from craftc.passes.pipelines import (
    Progress,
    analysis_pipeline,
    joined,
    planning_pipeline,
    profiling_pipeline,
    rewriting_pipeline,
    run_pipeline,
)
from craftc.planning_options import PlanningOptions
from craftc.plans.replication_plan import ReplicationPlan
from craftc.topology import Topology

if TYPE_CHECKING:  # planning from loads must not import torch
    from torch import fx, nn
    from torch.export import ExportedProgram

Batches = Iterable[dict[str, Any]] | Callable[[], Iterable[dict[str, Any]]]
"""Calibration batches: a list, or a function that starts the stream anew."""
DEFAULTS = PlanningOptions()


@dataclass(frozen=True, eq=False)
class Inspection:
    """The MoE layers of a model."""

    graph: fx.GraphModule
    """The traced model; experts nodes carry `node.meta["moe"]`."""
    layers: tuple[MoELayer, ...]
    """By ordinal."""
    near_misses: tuple[NearMiss, ...]
    """What was almost an MoE layer, with the reason."""


@dataclass(frozen=True, eq=False)
class Optimized:
    """A model rewritten to a plan, and what it was made from."""

    model: fx.GraphModule
    """Computes what the original computes, with replicated experts on virtual GPUs; shares the original's weights."""
    plan: ReplicationPlan
    """Copies and placement."""
    loads: LoadProfile
    """Measured or given."""
    verification: Verification
    """Measured equality with the original."""
    timings: tuple[PassTiming, ...]
    """Of every pass."""


def inspect(model: nn.Module, example_inputs: dict[str, Any], *, on_pass: Progress | None = None) -> Inspection:
    """Trace `model` and find its MoE layers.

    example_inputs: keyword arguments of one call. Model and inputs may be on the meta device. Raises BadInput where
    the model has no MoE layer or cannot run on its inputs, Unsupported where it cannot be traced.
    """
    start = Compilation(model=model, inputs=WorkloadInputs(example_inputs))
    found, _ = run_pipeline(analysis_pipeline(), start, on_pass)
    assert found.graph is not None
    return Inspection(found.graph, found.layers or (), found.near_misses)


def profile(
    model: nn.Module,
    example_inputs: dict[str, Any],
    calibration_inputs: Batches | None = None,
    *,
    max_steps: int | None = None,
    mask_input: str | None = "attention_mask",
    on_pass: Progress | None = None,
) -> LoadProfile:
    """Run the calibration batches and count tokens per expert; without batches the example inputs are the one step.

    mask_input: the input `[batch, sequence]` that is 0 for padding. Raises BadInput naming the batch at fault.
    """
    from craftc.passes.analysis.profile_loads import ProfileLoads

    profiling = ProfileLoads(mask_input=mask_input, max_steps=max_steps, model_name=type(model).__name__)
    start = Compilation(model=model, inputs=_workload(example_inputs, calibration_inputs))
    found, _ = run_pipeline(profiling_pipeline(profiling), start, on_pass)
    assert found.loads is not None
    return found.loads


def plan(
    loads: LoadProfile,
    topology: Topology,
    budget: str,
    *,
    expert_bytes: int | None = None,
    layers: Sequence[MoELayer] | None = None,
    options: PlanningOptions = DEFAULTS,
    on_pass: Progress | None = None,
) -> ReplicationPlan:
    """Copies and placement for measured loads: without a model, and without importing torch.

    budget: `64GiB`, `1GiB/gpu`, `8replicas/gpu`, `12.5%` or `auto`. Give `layers`, or else `expert_bytes`, the size of
    one expert. Raises BadInput on input that cannot be used, Infeasible where no plan fits.
    """
    known = layers_of_loads(loads, expert_bytes) if layers is None else tuple(layers)
    start = Compilation(
        loads=loads,
        layers=known,
        topology=topology,
        budget_requested=budget,
        expert_groups=options.groups,
        objective=options.objective,
        effort=options.effort,
    )
    planned, _ = run_pipeline(planning_pipeline(options), start, on_pass)
    assert planned.plan is not None
    return planned.plan


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
    """Trace, profile (unless `loads` are given), plan, rewrite and verify `model`, which is left as it is.

    A `torch.export.ExportedProgram` is verified in its own dtype only; see `craftc.backend.exported` on how to export.

    calibration_inputs: batches of keyword arguments, each one step of the profile; without them the example inputs are
    the one step. Raises BadInput or Unsupported on input that cannot be used, Infeasible where no plan fits, and
    VerificationFailed where the rewritten model differs from the original.
    """
    from craftc.passes.analysis.profile_loads import ProfileLoads

    traceable, verifying = _traceable(model)
    start = Compilation(
        model=traceable,
        inputs=_workload(example_inputs, calibration_inputs),
        loads=loads,
        topology=topology,
        budget_requested=budget,
        expert_groups=options.groups,
        objective=options.objective,
        effort=options.effort,
    )
    profiling = ProfileLoads(model_name=type(model).__name__)
    measuring = profiling_pipeline(profiling) if loads is None else analysis_pipeline()
    pipeline = joined(measuring, planning_pipeline(options), rewriting_pipeline(verifying))
    done, timings = run_pipeline(pipeline, start, on_pass)
    assert done.graph is not None
    assert done.plan is not None
    assert done.loads is not None
    assert done.verification is not None
    return Optimized(done.graph, done.plan, done.loads, done.verification, timings)


def _traceable(model: nn.Module | ExportedProgram) -> tuple[nn.Module, Pass | None]:
    """The module to trace, and how to verify its rewrite where that needs more than the default."""
    from torch import nn

    if isinstance(model, nn.Module):
        return model, None
    from craftc.backend.exported import own_dtypes, restored_model
    from craftc.passes.rewriting.verify_rewrite import VerifyRewrite

    return restored_model(model), VerifyRewrite(dtypes=own_dtypes(model))


def layers_of_loads(loads: LoadProfile, expert_bytes: int | None) -> tuple[MoELayer, ...]:
    """The layers that `loads` tell of, all experts of one size. Raises BadInput without that size."""
    if expert_bytes is None:
        raise BadInput("the size of an expert is not known: give --expert-bytes (such as 84MiB), or the model")
    if expert_bytes < 1:
        raise BadInput(f"expert size must be at least 1 byte, got {expert_bytes}")
    return tuple(
        MoELayer(name, index, loads.experts, expert_bytes, top_k)
        for name, index, top_k in zip(loads.layer_names, loads.layer_indices, loads.top_k, strict=True)
    )


def _workload(example_inputs: dict[str, Any], batches: Batches | None) -> WorkloadInputs:
    if batches is None or callable(batches):
        return WorkloadInputs(example_inputs, batches)
    if isinstance(batches, Iterator):
        raise BadInput(
            "calibration_inputs is an iterator, which runs only once: give a list, or the function that makes it"
        )
    return WorkloadInputs(example_inputs, lambda: batches)
