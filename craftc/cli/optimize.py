"""craftc optimize: everything, from a model to a folder with plan, loads, weights and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.calibrating import given_measurements
from craftc.cli.command_help import OUTPUT
from craftc.cli.for_server import ServerOptions, config_of_model, first_objective, optimized_with
from craftc.cli.options import (
    DEFAULT_PLANNER,
    Budget,
    CrossValidate,
    Effort,
    EffortChoice,
    Gpus,
    Groups,
    LoadsFormat,
    Model,
    Nodes,
    ObjectiveChoice,
    OptionalLoads,
    OutputFormat,
    Planner,
    Shares,
    SharesChoice,
    Solver,
    SolverChoice,
    TimeLimit,
    TokensPerSlot,
)
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress
from craftc.cli.serving_options import (
    Batch,
    Calibrate,
    Chunk,
    InputTokens,
    OptionalCluster,
    OutputTokensBesideFile,
    Phase,
    PhaseChoice,
    SloItl,
)

if TYPE_CHECKING:
    from craftc.passes.compilation import Compilation
    from craftc.plans.replication_plan import PlanObjective
    from craftc.serving.goodput_curve import GoodputCurve

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The folder to write, whole or not at all.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
StopAfter = Annotated[
    str | None,
    typer.Option(
        "--stop-after",
        metavar="PASS",
        help="Stop after this pass, show what is known by then, and write nothing.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


def optimize(
    model: Model,
    gpus: Gpus,
    budget: Budget,
    out: Out = None,
    nodes: Nodes = 1,
    groups: Groups = 1,
    loads: OptionalLoads = None,
    loads_format: LoadsFormat = None,
    cluster: OptionalCluster = None,
    calibrate: Calibrate = None,
    input: InputTokens = 4096,
    output_tokens: OutputTokensBesideFile = 256,
    chunk: Chunk = 4096,
    phase: Phase = PhaseChoice.mixed,
    batch: Batch = None,
    slo_itl: SloItl = None,
    objective: ObjectiveChoice = None,
    slot_tokens: TokensPerSlot = 0.0,
    effort: EffortChoice = Effort.medium,
    shares: SharesChoice = Shares.even,
    validate: CrossValidate = True,
    planner: Planner = DEFAULT_PLANNER,
    solver: SolverChoice = Solver.auto,
    time_limit: TimeLimit = 30.0,
    stop_after: StopAfter = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Profile, plan, rewrite and verify a model, and write the result.

    DIR then holds the plan, the loads, every GPU's weights and a report. Nothing is written unless the rewritten model
    computes what the original computes.

    Example:
      craftc optimize model.py --gpus 8 --nodes 2 --budget 25% --out optimized
    """
    from craftc.budget import parse_budget
    from craftc.deployment.optimized_folder import OURS
    from craftc.errors import BadInput
    from craftc.files.output_folder import check_replaceable
    from craftc.loads.read_loads import read_loads
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_file import load_model_source, model_name
    from craftc.passes.analysis.profile_loads import ProfileLoads
    from craftc.passes.pipelines import optimizing, run_on_model
    from craftc.planning_options import PlanningOptions, PlanningRequest
    from craftc.topology import Topology

    serving = ServerOptions(cluster, calibrate, input, output_tokens, chunk, phase, batch, slo_itl)
    server = serving.server(None if cluster is None else config_of_model(model, GivenSizes()))
    wanted: PlanObjective | None = None if objective is None else objective.value
    options = PlanningOptions(
        planner,
        solver.value,
        time_limit,
        shares.value,
        groups,
        validate,
        first_objective(wanted, planner, server),
        effort.value,
        slot_tokens,
    )
    request = PlanningRequest(Topology(gpus, nodes), parse_budget(budget), options)
    if (out is None) == (stop_after is None):
        raise BadInput("give --out DIR, the folder to write, or --stop-after PASS to look without writing")
    if out is not None:
        check_replaceable(out, OURS)
    if server is not None:
        server.ranks(request.topology)
    measurements = given_measurements(calibrate, None)
    if server is not None and stop_after is not None:
        raise BadInput("--stop-after does not go with --cluster: look at single passes without a cluster")
    with shown_progress("load model") as progress:
        profiling = ProfileLoads(model_name=model_name(model), on_step=progress.on_step)
        pipeline = optimizing(request, profiling if loads is None else None)
        if stop_after is not None:
            pipeline = pipeline.until(stop_after)
        measured = None if loads is None else read_loads(loads, loads_format)
        source = load_model_source(model)
        curve: GoodputCurve | None = None
        warnings: tuple[str, ...] = ()
        if server is None:
            done = run_on_model(pipeline, source.model, source.inputs, measured, on_pass=progress)
        else:
            profiled = profiling if loads is None else None
            done, curve, warnings = optimized_with(
                server, request, source, profiled, measured, wanted, measurements, progress
            )
        if out is None:
            return _shown(done, source.name, format)
        return _written(done, curve, warnings, source.name, model, out, progress, format)


def _shown(done: Compilation, name: str, format: Format) -> Result:
    from craftc.report.optimize_report import optimize_document, optimize_report

    warnings = done.plan.warnings if done.knows("plan") else ()
    return Result(optimize_document(done), optimize_report(name, done), format, warnings=warnings)


def _written(
    done: Compilation,
    curve: GoodputCurve | None,
    more: tuple[str, ...],
    name: str,
    spec: str,
    out: Path,
    progress: ShownProgress,
    format: Format,
) -> Result:
    from craftc.deployment.optimized_folder import write_optimized
    from craftc.plans.file import plan_document
    from craftc.report.goodput_choice import goodput_choice_document, goodput_choice_text
    from craftc.report.optimize_report import files_list, optimize_report
    from craftc.report.phases_report import phases_document, phases_hint
    from craftc.report.plan_report import comparison_table, goodput_text, validation_text
    from craftc.report.verification_report import verification_document, verification_text

    progress("write")
    files = write_optimized(out, done.model, done.plan, done.loads, optimize_report(name, done), spec)
    document = {
        "plan": plan_document(done.plan),
        "verification": verification_document(done.verification),
        "files": [str(out / file) for file in files],
        "warnings": [*done.plan.warnings, *more],
        **({} if done.phases is None else {"phases": phases_document(done.phases)}),
        **({} if curve is None else {"goodput_curve": goodput_choice_document(curve)}),
    }
    parts = (
        verification_text(done.verification),
        goodput_text(done.plan),
        "" if curve is None else goodput_choice_text(curve),
        comparison_table(done.plan),
        validation_text(done.plan),
        phases_hint(done.phases),
        files_list(out, files),
    )
    return Result(document, "\n\n".join(filter(None, parts)), format, warnings=(*done.plan.warnings, *more))
