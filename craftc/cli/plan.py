"""craftc plan: from measured loads to a plan file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import BUDGET, OUTPUT
from craftc.cli.given_config import Mtp, given_config, given_sizes
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
    Objective,
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
from craftc.cli.plan_phases import PerPhase, check_per_phase, plan_phases
from craftc.cli.progress import ShownProgress, shown_progress
from craftc.cli.replanning import MaxMove, Old, PlacementFormat, plan_in_use
from craftc.topology import Topology

if TYPE_CHECKING:
    from torch import nn

    from craftc.loads.load_profile import LoadProfile
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import ModelConfig as Config
    from craftc.models.moe_layer import MoELayer
    from craftc.passes.compilation import Compilation
    from craftc.planning_options import PlanningOptions, PlanningRequest

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
        help="With --budget auto: draw balancedness, or step time, against replicas per GPU, the chosen point marked.",
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
    objective: ObjectiveChoice = Objective.balancedness,
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
    from craftc.passes.pipelines import planned
    from craftc.planning_options import PlanningOptions, PlanningRequest

    topology = Topology(gpus, nodes)
    given = given_sizes(expert_bytes)
    config = _config(model, model_config, given, mtp)
    recorded = cache(lambda: read_loads(loads, loads_format))
    planner = _uniform(planner) if uniform else planner
    options = PlanningOptions(
        planner, solver.value, time_limit, shares.value, groups, validate, objective.value, effort.value, slot_tokens
    )
    in_use = plan_in_use(old, placement_format, topology, config, given, recorded)
    options = replace(options, current_plan=in_use, max_move_bytes=_bytes(max_move))
    request = PlanningRequest(topology, parse_budget(budget), options)
    _check_before_work(request, output, curve, per_phase)
    show = partial(_result, model=model, config=config, recorded=recorded, format=format)
    with shown_progress("read loads") as progress:
        measured, layers, built = _layers(recorded(), model, config, given, options, progress)
        if per_phase:
            return plan_phases(request, measured, layers, built, output, progress, show)
        done = planned(request, measured, layers, model=built, on_pass=progress)
        return show(done, _write(done, output, curve, progress))


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


def _config(model: str | None, model_config: Path | None, given: GivenSizes, mtp: bool) -> Config | None:
    """The model's config, if it is given. Raises BadInput if the model is given twice."""
    from craftc.errors import BadInput

    if model is not None and model_config is not None:
        raise BadInput("give MODEL or --model-config, not both: each knows the layers and the size of their experts")
    return given_config(model_config, given, mtp)


def _bytes(size: str | None) -> int | None:
    from craftc.units import parse_size

    return None if size is None else parse_size(size)


def _layers(
    loads: LoadProfile,
    model: str | None,
    config: Config | None,
    given: GivenSizes,
    options: PlanningOptions,
    progress: ShownProgress,
) -> tuple[LoadProfile, tuple[MoELayer, ...], nn.Module | None]:
    """Loads with the model's names, its MoE layers, and the model itself if there is one."""
    from craftc.loads.name_layers import layers_of_loads, name_layers, recorded_layers
    from craftc.models.given_sizes import resized, sized

    if model is not None:
        return (loads, *_model_and_layers(model, given, progress))
    if config is not None:
        return name_layers(loads, config), recorded_layers(loads, config), None
    if options.current_plan is not None:
        return loads, resized(options.current_plan.moe_layers, given), None
    return loads, sized(layers_of_loads(loads, 1), given), None


def _model_and_layers(model: str, given: GivenSizes, progress: ShownProgress) -> tuple[tuple[MoELayer, ...], nn.Module]:
    from craftc.models.model_file import load_model_source
    from craftc.models.model_sizes import true_sizes
    from craftc.passes.compilation import require_moe_layers
    from craftc.passes.pipelines import analysed

    progress("load model")
    source = load_model_source(model)
    found = analysed(source.model, source.inputs, on_pass=progress)
    require_moe_layers(found)
    return true_sizes(model, found.layers, given), source.model


def _write(done: Compilation, output: Path, curve: Path | None, progress: ShownProgress) -> list[str]:
    """Write the plan, and the drawing if it is requested; returns the files' names."""
    from craftc.plans.file import write_plan
    from craftc.report.budget_report import draw_budget_curve

    progress("write plan")
    write_plan(done.plan, output)
    if curve is None:
        return [str(output)]
    draw_budget_curve(done.budget_curve, curve)
    return [str(output), str(curve)]


def _result(
    done: Compilation,
    files: list[str],
    model: str | None,
    config: Config | None,
    recorded: Callable[[], LoadProfile],
    format: Format,
) -> Result:
    """The plan; with `--budget auto` also the curve behind its budget, and with `--from` the changes."""
    from craftc.loads.name_layers import left_out
    from craftc.models.model_config import groups_hint
    from craftc.models.model_sizes import mtp_beside
    from craftc.plans.diff import diff_plans
    from craftc.plans.file import plan_document
    from craftc.report.budget_report import budget_document, budget_text
    from craftc.report.diff_report import diff_document, diff_summary
    from craftc.report.phases_report import phases_document, phases_hint
    from craftc.report.plan_report import comparison_table, plan_summary, validation_text

    options, topology = done.request.options, done.request.topology
    hints = () if model is None else mtp_beside(model)
    if config is not None:
        hints = groups_hint(config, options.expert_groups, topology.nodes) + left_out(recorded(), config)
    warnings = (*done.plan.warnings, *hints)
    document = {"plan": plan_document(done.plan), "files": files, "warnings": list(warnings)}
    parts = [plan_summary(done.plan), comparison_table(done.plan), *filter(None, [validation_text(done.plan)])]
    if done.knows("budget_curve"):
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
