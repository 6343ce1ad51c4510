"""The pipelines that commands, API and backend run: which passes, in which order, with which options."""

from __future__ import annotations

from collections.abc import Callable

from craftc.passes.base import Pass, PassTiming, Pipeline
from craftc.passes.compilation import Compilation
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.choose_budget import ChooseBudget
from craftc.passes.planning.choose_shares import ChooseShares
from craftc.passes.planning.cross_validate import CrossValidate
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from craftc.passes.planning.match_loads import MatchLoads
from craftc.passes.planning.place_replicas import PlaceReplicas
from craftc.passes.planning.replan_replicas import ANY_MOVE, ReplanReplicas
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.passes.planning.validate_curves import ValidateCurves
from craftc.passes.planning.weigh_workloads import WeighWorkloads
from craftc.planning_options import PlanningOptions
from craftc.solvers.planners.registry import planner_named

Progress = Callable[[str], None]
"""Called with the name of every pass as it starts."""


def analysis_pipeline() -> Pipeline:
    """From a model and its inputs to its MoE layers."""
    # These import torch, which planning from loads must not.
    from craftc.passes.analysis.find_moe_layers import FindMoELayers
    from craftc.passes.analysis.trace import Trace

    return Pipeline((Trace(), FindMoELayers()))


def profiling_pipeline(profiling: Pass) -> Pipeline:
    """From a model and its inputs to measured loads."""
    return Pipeline((*analysis_pipeline().passes, profiling))


def planning_pipeline(options: PlanningOptions) -> Pipeline:
    """From layers, loads, topology and budget to a plan; no model needed. Raises BadInput on an unknown planner."""
    planner_named(options.planner)
    placing: Pass = PlaceReplicas(planner=options.planner)
    if options.old is not None:
        limit = ANY_MOVE if options.max_move_bytes is None else options.max_move_bytes
        placing = ReplanReplicas(options.old, limit, planner=options.planner)
    return Pipeline(
        (
            MatchLoads(),
            ResolveBudget(),
            *((WeighWorkloads(planner=options.planner),) if options.objective == "worst-workload" else ()),
            EstimateBenefit(planner=options.planner),
            *((ValidateCurves(planner=options.planner),) if options.validate else ()),
            ChooseBudget(planner=options.planner),
            AllocateReplicas(planner=options.planner, solver=options.solver, time_limit_s=options.time_limit_s),
            placing,
            *((ChooseShares(),) if options.shares == "lp" else ()),
            # A plan in use limits what may move, which planning anew on other steps would not tell of.
            *((CrossValidate(planner=options.planner),) if options.old is None else ()),
        )
    )


def rewriting_pipeline(verifying: Pass | None = None) -> Pipeline:
    """From a traced model and a plan to the rewritten model, verified (by `VerifyRewrite()` where not told how)."""
    from craftc.passes.rewriting.rewrite_experts import RewriteExperts
    from craftc.passes.rewriting.verify_rewrite import VerifyRewrite

    return Pipeline((RewriteExperts(), verifying or VerifyRewrite()))


def joined(*pipelines: Pipeline) -> Pipeline:
    """One pipeline that runs `pipelines` after each other."""
    return Pipeline(tuple(one for pipeline in pipelines for one in pipeline.passes))


def run_pipeline(
    pipeline: Pipeline, compilation: Compilation, on_pass: Progress | None
) -> tuple[Compilation, tuple[PassTiming, ...]]:
    """Run `pipeline`, telling `on_pass` the name of every pass as it starts."""
    tell = None if on_pass is None else (lambda one: on_pass(one.name))
    return Pipeline(pipeline.passes, on_pass=tell).run(compilation)
