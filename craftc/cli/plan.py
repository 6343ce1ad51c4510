"""craftc plan: from measured loads to a plan file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.calibrating import given_measurements
from craftc.cli.command_help import BUDGET, OUTPUT
from craftc.cli.for_server import ServerOptions, config_of_model, first_objective, made_for_server, planned_with
from craftc.cli.given_config import Mtp, given_sizes
from craftc.cli.options import (
    DEFAULT_PLANNER,
    Budget,
    CrossValidate,
    Effort,
    EffortChoice,
    ExpertBytes,
    Gpus,
    Groups,
    Loads,
    LoadsFormat,
    ModelConfig,
    Nodes,
    ObjectiveChoice,
    OptionalModel,
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
from craftc.cli.plan_inputs import bytes_of, config_beside_model, loads_and_layers
from craftc.cli.plan_phases import PerPhase, check_per_phase, plan_phases
from craftc.cli.progress import ShownProgress, shown_progress
from craftc.cli.replanning import MaxMove, Old, PlacementFormat, plan_in_use
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
from craftc.topology import Topology

if TYPE_CHECKING:
    from craftc.loads.load_profile import LoadProfile
    from craftc.models.model_config import ModelConfig as Config
    from craftc.passes.compilation import Compilation
    from craftc.planning_options import PlanningRequest
    from craftc.plans.replication_plan import PlanObjective
    from craftc.serving.goodput_curve import GoodputCurve
    from craftc.serving.serving_model import ServingModel

Output = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="FILE.json", help="The plan file to write.", rich_help_panel=OUTPUT),
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform",
        help="Give every layer the same number of replicas and every GPU the same number of slots: most servers need "
        "that.",
        rich_help_panel=BUDGET,
    ),
]
Curve = Annotated[
    Path | None,
    typer.Option(
        "--curve",
        metavar="FILE.png",
        help="With --budget auto: draw balancedness, or step time, or with --cluster goodput, against replicas per "
        "GPU, the chosen point marked.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


def plan(
    loads: Loads,
    gpus: Gpus,
    budget: Budget,
    output: Output,
    model: OptionalModel = None,
    nodes: Nodes = 1,
    groups: Groups = 1,
    expert_bytes: ExpertBytes = None,
    loads_format: LoadsFormat = None,
    model_config: ModelConfig = None,
    mtp: Mtp = False,
    uniform: Uniform = False,
    old: Old = None,
    placement_format: PlacementFormat = None,
    max_move: MaxMove = None,
    curve: Curve = None,
    per_phase: PerPhase = False,
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
    format: OutputFormat = Format.text,
) -> Result:
    """Plan copies and placement for measured loads.

    Layers and expert sizes come from MODEL, --model-config, --expert-bytes with the loads, or the plan in use (--from).

    Example:
      craftc plan --loads loads.npz --gpus 8 --budget 2replicas/gpu --expert-bytes 84MiB -o plan.json
    """
    from craftc.budget import parse_budget
    from craftc.loads.read_loads import read_loads
    from craftc.planning_options import PlanningOptions, PlanningRequest

    topology = Topology(gpus, nodes)
    given = given_sizes(expert_bytes)
    config = config_beside_model(model, model_config, given, mtp)
    serving = ServerOptions(cluster, calibrate, input, output_tokens, chunk, phase, batch, slo_itl)
    server = serving.server(config if model is None or cluster is None else config_of_model(model, given))
    recorded = cache(lambda: read_loads(loads, loads_format))
    planner = _uniform(planner) if uniform else planner
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
    in_use = plan_in_use(old, placement_format, topology, config, given, recorded)
    options = replace(options, current_plan=in_use, max_move_bytes=bytes_of(max_move))
    request = PlanningRequest(topology, parse_budget(budget), options)
    _check_before_work(request, output, curve, per_phase)
    if server is not None:
        _check_server(server, topology, per_phase, curve)
    measurements = given_measurements(calibrate, None)
    show = partial(_result, model=model, config=config, recorded=recorded, format=format)
    with shown_progress("read loads") as progress:
        measured, layers, built = loads_and_layers(recorded(), model, config, given, options, progress)
        if per_phase:
            return plan_phases(request, measured, layers, built, output, progress, show)
        if server is not None:
            made = made_for_server(server, request, measured, layers, wanted, measurements)
            server, request, show = made.server, made.request, partial(show, more=made.warnings)
        done, chosen = planned_with(server, request, measured, layers, built, progress)
        return show(done, _write(done, chosen, output, curve, progress), chosen=chosen)


def _uniform(planner: str) -> str:
    from craftc.solvers.planners.registry import uniform_name

    return uniform_name(planner)


def _check_before_work(request: PlanningRequest, output: Path, curve: Path | None, per_phase: bool) -> None:
    """Refuse what can be refused before the loads are read."""
    from craftc.errors import BadInput
    from craftc.files.atomic_write import check_writable
    from craftc.solvers.planners.registry import planner_named

    planner_named(request.options.planner)
    if per_phase:
        check_per_phase(request, curve)
    if curve is not None and request.budget.kind != "auto":
        raise BadInput("--curve draws how --budget auto chose: give both, or neither")
    for path in (output, curve):
        if path is not None:
            check_writable(path)


def _check_server(server: ServingModel, topology: Topology, per_phase: bool, curve: Path | None) -> None:
    """Refuse GPUs that are not the cluster's, and plans per phase: each phase has a server of its own."""
    from craftc.errors import BadInput
    from craftc.report.goodput_picture import check_picture

    server.ranks(topology)
    if curve is not None:
        check_picture(curve)
    if per_phase:
        raise BadInput(
            "--per-phase does not go with --cluster: plan the phases, then craftc simulate each plan with --phase"
        )


def _write(
    done: Compilation, chosen: GoodputCurve | None, output: Path, curve: Path | None, progress: ShownProgress
) -> list[str]:
    """Write the plan, and the drawing if it is requested; returns the files' names."""
    from craftc.plans.file import write_plan
    from craftc.report.budget_report import draw_budget_curve
    from craftc.report.goodput_picture import draw_goodput

    progress("write plan")
    write_plan(done.plan, output)
    if curve is None:
        return [str(output)]
    if chosen is None:
        draw_budget_curve(done.budget_curve, curve)
    else:
        draw_goodput([chosen], curve)
    return [str(output), str(curve)]


def _result(
    done: Compilation,
    files: list[str],
    model: str | None,
    config: Config | None,
    recorded: Callable[[], LoadProfile],
    format: Format,
    chosen: GoodputCurve | None = None,
    more: tuple[str, ...] = (),
) -> Result:
    """The plan; with `--budget auto` also the curve behind its budget, and with `--from` the changes."""
    from craftc.loads.name_layers import left_out
    from craftc.models.model_config import groups_hint
    from craftc.models.model_sizes import mtp_beside
    from craftc.plans.diff import diff_plans
    from craftc.plans.file import plan_document
    from craftc.report.budget_report import budget_document, budget_text
    from craftc.report.diff_report import diff_document, diff_summary
    from craftc.report.goodput_choice import goodput_choice_document, goodput_choice_text
    from craftc.report.phases_report import phases_document, phases_hint
    from craftc.report.plan_report import comparison_table, goodput_text, plan_summary, validation_text

    options, topology = done.request.options, done.request.topology
    hints = () if model is None else mtp_beside(model)
    if config is not None:
        hints = groups_hint(config, options.expert_groups, topology.nodes) + left_out(recorded(), config)
    judged = () if chosen is None else chosen.judged.warnings
    warnings = (*done.plan.warnings, *hints, *judged, *more)
    document = {"plan": plan_document(done.plan), "files": files, "warnings": list(warnings)}
    texts = (plan_summary(done.plan), goodput_text(done.plan), comparison_table(done.plan), validation_text(done.plan))
    parts = list(filter(None, texts))
    if chosen is not None:
        document["goodput_curve"] = goodput_choice_document(chosen)
        parts.append(goodput_choice_text(chosen))
    elif done.knows("budget_curve"):
        document["budget_curve"] = budget_document(done.budget_curve)
        parts.append(budget_text(done.budget_curve))
    if options.current_plan is not None:
        changes = diff_plans(options.current_plan, done.plan)
        document["diff"] = diff_document(changes)
        parts.append(diff_summary(changes))
    if done.knows("phases") and done.phases is not None:
        document["phases"] = phases_document(done.phases)
        parts.extend(filter(None, [phases_hint(done.phases)]))
    parts.append(f"wrote {', '.join(files)}")
    return Result(document, "\n\n".join(parts), format, warnings=warnings)
