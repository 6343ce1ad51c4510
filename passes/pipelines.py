"""Which passes run, in which order (a pass is one line here), and the four ways in that everybody calls.

Nobody else creates a `Compilation`: `analysed`, `profiled`, `planned` and `rewritten` take values and return one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.base import Pass, Pipeline, Progress
from craftc.passes.compilation import Compilation, updated
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.choose_shares import ChooseShares
from craftc.passes.planning.compile_search import CompileSearch
from craftc.passes.planning.cross_validate import CrossValidate
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.find_phases import FindPhases
from craftc.passes.planning.match_loads import MatchLoads
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.passes.planning.pose_problem import PoseProblem
from craftc.passes.planning.replan_replicas import ANY_MOVE, ReplanReplicas
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.passes.planning.validate_curves import ValidateCurves
from craftc.passes.planning.weigh_workloads import WeighWorkloads
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.replication_plan import ReplicationPlan
from craftc.solvers.phases import Phase, PhaseGain
from craftc.solvers.planners.registry import planner_for, planner_named
from craftc.solvers.problem import Placement
from craftc.solvers.step_clusters import FEWEST_STEPS

if TYPE_CHECKING:  # planning from loads must not import torch
    from torch import nn


def analysed(model: nn.Module, inputs: WorkloadInputs, *, on_pass: Progress | None = None) -> Compilation:
    """`model` traced on its example inputs, and its MoE layers; there may be none."""
    return run_on_model(analysis(), model, inputs, on_pass=on_pass)


def profiled(
    model: nn.Module, inputs: WorkloadInputs, profiling: Pass, *, on_pass: Progress | None = None
) -> Compilation:
    """`model` analysed, with its loads measured by the pass `profiling`."""
    return run_on_model(joined(analysis(), Pipeline((profiling,))), model, inputs, on_pass=on_pass)


def planned(
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    *,
    model: nn.Module | None = None,
    phase: Phase | None = None,
    on_pass: Progress | None = None,
) -> Compilation:
    """What `request` asks for, planned from `loads` for `layers`; `model` only names the origin of the plan.

    phase: plan from its steps alone, and look for no phases within it. Raises BadInput if a layer has no tokens in it.
    """
    start = Compilation(loads=loads if phase is None else loads.select_steps(phase.steps), layers=tuple(layers))
    pipeline = planning(request, phases=phase is None)
    return pipeline.run(start if model is None else updated(start, model=model), on_pass)


def placed_within(
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    budgets: Sequence[int],
    *,
    on_pass: Progress | None = None,
) -> list[tuple[Placement, ...]]:
    """Placements within each of `budgets`, in bytes on all GPUs, for one estimate of what replicas gain.

    request: its own budget must be the largest of them. Raises Infeasible if the planner cannot do with one of them.
    """
    options = request.options
    planner_named(options.planner)
    validating = (ValidateCurves(),) if options.cross_validate else ()
    estimating = Pipeline(
        (MatchLoads(), ResolveBudget(), PoseProblem(), CompileSearch(), EstimateBenefit(), *validating), request
    )
    known = estimating.run(Compilation(loads=loads, layers=tuple(layers)), on_pass)
    planner = planner_for(options.planner, known.problem)
    placed = []
    for budget_bytes in budgets:
        posed = updated(known, problem=replace(known.problem, budget_bytes=budget_bytes))
        allocation = Pipeline((AllocateReplicas(),)).run(posed, on_pass).allocation
        placed.append(planner.place(posed.problem, allocation.replicas_L))
    return placed


def phases_found(
    request: PlanningRequest, loads: LoadProfile, layers: Sequence[MoELayer], *, on_pass: Progress | None = None
) -> PhaseGain:
    """The phases of `loads`, and what a plan for each would gain. Raises BadInput if there are none."""
    if request.options.current_plan is not None:
        raise BadInput("plans per phase are made from scratch: drop the plan in use, or replan each phase's plan alone")
    budget = (EstimateBenefit(), ChooseBudget()) if request.budget.kind == "auto" else ()
    passes = (MatchLoads(), ResolveBudget(), PoseProblem(), *budget, FindPhases())
    start = Compilation(loads=loads, layers=tuple(layers))
    found = Pipeline(passes, request).run(start, on_pass).phases
    if found is None:
        raise BadInput(
            f"no phases in {loads.steps} steps: neither their names nor their loads fall into groups of at least "
            f"{FEWEST_STEPS} steps that route differently; make one plan, or name the steps of the loads (step_names)"
        )
    return found


def rewritten(
    model: nn.Module, inputs: WorkloadInputs, plan: ReplicationPlan, *, on_pass: Progress | None = None
) -> Compilation:
    """`model` analysed, rewritten to `plan` and verified. Raises VerificationFailed if outputs differ."""
    start = Compilation(model=model, inputs=inputs, plan=plan)
    return joined(analysis(), rewriting()).run(start, on_pass)


def run_on_model(
    pipeline: Pipeline,
    model: nn.Module,
    inputs: WorkloadInputs,
    loads: LoadProfile | None = None,
    *,
    on_pass: Progress | None = None,
) -> Compilation:
    """Run `pipeline` from the start on a model, and on its loads if they are known already."""
    start = Compilation(model=model, inputs=inputs)
    return pipeline.run(start if loads is None else updated(start, loads=loads), on_pass)


def optimizing(request: PlanningRequest, profiling: Pass | None, verifying: Pass | None = None) -> Pipeline:
    """From a model to its verified rewrite. profiling: None if loads are given; verifying: see `rewriting`."""
    measuring = Pipeline(() if profiling is None else (profiling,))
    return joined(analysis(), measuring, planning(request), rewriting(verifying))


def analysis() -> Pipeline:
    """From a model and its inputs to its MoE layers."""
    # These import torch, which planning from loads must not.
    from craftc.passes.analysis.find_moe_layers import FindMoELayers
    from craftc.passes.analysis.trace import Trace

    return Pipeline((Trace(), FindMoELayers()))


def planning(request: PlanningRequest, *, phases: bool = True) -> Pipeline:
    """From layers and loads to a plan; no model needed. Raises BadInput on an unknown planner.

    phases: whether to look for phases among the steps.
    """
    options = request.options
    planner_named(options.planner)
    return Pipeline(
        (
            MatchLoads(),
            ResolveBudget(),
            PoseProblem(),
            CompileSearch(),
            *((WeighWorkloads(),) if options.objective == "worst-workload" else ()),
            EstimateBenefit(),
            *((ValidateCurves(),) if options.cross_validate else ()),
            ChooseBudget(),
            AllocateReplicas(),
            _placing(options),
            *((ChooseShares(),) if options.shares == "lp" else ()),
            *((FindPhases(),) if phases and options.current_plan is None else ()),
            # A plan in use limits what may move, which planning from scratch on other steps would not reflect.
            *((CrossValidate(),) if options.current_plan is None else ()),
        ),
        request,
    )


def rewriting(verifying: Pass | None = None) -> Pipeline:
    """From a traced model and a plan to the rewritten model, verified (by `VerifyRewrite()` by default)."""
    from craftc.passes.rewriting.rewrite_experts import RewriteExperts
    from craftc.passes.rewriting.verify_rewrite import VerifyRewrite

    return Pipeline((RewriteExperts(), verifying or VerifyRewrite()))


def joined(*pipelines: Pipeline) -> Pipeline:
    """One pipeline that runs `pipelines` one after the other; at most one of them plans."""
    requests = [pipeline.request for pipeline in pipelines if pipeline.request is not None]
    return Pipeline(
        tuple(each for pipeline in pipelines for each in pipeline.passes), requests[0] if requests else None
    )


def _placing(options: PlanningOptions) -> Pass:
    if options.current_plan is None:
        return PlaceReplicas()
    return ReplanReplicas(options.current_plan, ANY_MOVE if options.max_move_bytes is None else options.max_move_bytes)
