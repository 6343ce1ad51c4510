"""craftc plan: from measured loads to a plan file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.options import (
    DEFAULT_PLANNER,
    Budget,
    Effort,
    EffortChoice,
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
    Validate,
)
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress

if TYPE_CHECKING:
    from craftc.models.model_config import ModelConfig as Config
    from craftc.passes.compilation import Compilation
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.topology import Topology


def plan(
    loads: Loads,
    gpus: Gpus,
    budget: Budget,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.json", help="The plan file to write.")],
    model: OptionalModel = None,
    nodes: Nodes = 1,
    groups: Groups = 1,
    expert_bytes: Annotated[
        str | None,
        typer.Option(
            "--expert-bytes", metavar="SIZE", help="Size of one expert, where no MODEL is given.", show_default=False
        ),
    ] = None,
    loads_format: LoadsFormat = None,
    model_config: ModelConfig = None,
    uniform: Annotated[
        bool,
        typer.Option(
            "--uniform", help="The same replicas in every layer, slots a multiple of G: what most servers need."
        ),
    ] = False,
    old: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="OLD.json",
            help="Replan: start from the plan in use; slots that stay keep their position.",
            show_default=False,
        ),
    ] = None,
    placement_format: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="With --from: it is a server's placement of this format; needs --model-config.",
            show_default=False,
        ),
    ] = None,
    max_move: Annotated[
        str | None,
        typer.Option(
            "--max-move",
            metavar="SIZE",
            help="With --from: weights that GPUs may receive, all together.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(
            "--curve",
            metavar="FILE.png",
            help="With --budget auto: draw balancedness by replicas per GPU, the chosen point marked.",
            show_default=False,
        ),
    ] = None,
    objective: ObjectiveChoice = Objective.balancedness,
    effort: EffortChoice = Effort.medium,
    shares: SharesChoice = Shares.even,
    validate: Validate = False,
    planner: Planner = DEFAULT_PLANNER,
    solver: SolverChoice = Solver.highs,
    time_limit: TimeLimit = 30.0,
    format: OutputFormat = Format.text,
) -> Result:
    """Plan copies and placement for measured loads.

    Layers and expert sizes come from MODEL, from --model-config, from --expert-bytes and the loads, or from the plan in
    use.
    """
    from craftc.budget import parse_budget
    from craftc.files.atomic_write import check_writable
    from craftc.loads.read_loads import read_loads
    from craftc.models.model_config import groups_hint, read_model_config
    from craftc.passes.compilation import Compilation
    from craftc.passes.pipelines import planning_pipeline, run_pipeline
    from craftc.planning_options import PlanningOptions
    from craftc.plans.file import write_plan
    from craftc.report.budget_report import draw_budget_curve
    from craftc.solvers.planners.uniform import UNIFORM
    from craftc.topology import Topology
    from craftc.units import parse_size

    if uniform:
        planner = planner.removesuffix(UNIFORM) + UNIFORM
    topology = Topology(gpus, nodes)
    wanted = Compilation(
        topology=topology,
        budget_requested=parse_budget(budget).text,
        expert_groups=groups,
        objective=objective.value,
        effort=effort.value,
    )
    _check_one_source(model, model_config, expert_bytes)
    config = None if model_config is None else read_model_config(model_config)
    in_use = _in_use(old, placement_format, config, topology)
    move_bytes = None if max_move is None else parse_size(max_move)
    planning = planning_pipeline(
        PlanningOptions(
            planner,
            solver.value,
            time_limit,
            shares.value,
            groups,
            validate,
            objective.value,
            old=in_use,
            max_move_bytes=move_bytes,
        )
    )
    _check_curve(curve, budget)
    for path in (output, curve):
        if path is not None:
            check_writable(path)
    with shown_progress("read loads") as progress:
        wanted = replace(wanted, loads=read_loads(loads, loads_format))
        if model is not None:
            start = _with_model(wanted, model, progress)
        elif config is not None:
            start = _with_config(wanted, config)
        elif in_use is not None and expert_bytes is None:
            start = replace(wanted, layers=in_use.moe_layers)
        else:
            start = _with_layers(wanted, expert_bytes)
        done, _ = run_pipeline(planning, start, progress)
        assert done.plan is not None
        progress("write plan")
        write_plan(done.plan, output)
        if curve is not None and done.budget_curve is not None:
            draw_budget_curve(done.budget_curve, curve)
    hints = () if config is None else groups_hint(config, groups, nodes)
    return _result(done, in_use, [str(path) for path in (output, curve) if path is not None], hints, format)


def _in_use(
    old: Path | None, placement_format: str | None, config: Config | None, topology: Topology
) -> ReplicationPlan | None:
    """The plan to replan from: a plan file, or a server's placement."""
    from craftc.errors import BadInput
    from craftc.manifests.read_placement import read_placement
    from craftc.plans.file import read_plan
    from craftc.plans.verifier import require_sound

    if placement_format is None:
        return None if old is None else read_plan(old)
    if old is None or config is None:
        raise BadInput("--as goes with --from PLACEMENT and --model-config config.json: the file holds no expert sizes")
    plan = read_placement(old, placement_format, topology, config.layers, config.hidden_layers)
    require_sound(plan)
    return plan


def _result(
    done: Compilation, in_use: ReplicationPlan | None, files: list[str], hints: tuple[str, ...], format: Format
) -> Result:
    """The plan, and where they were asked for the curve behind its budget and the changes from the plan in use."""
    from craftc.plans.diff import diff_plans
    from craftc.plans.file import plan_document
    from craftc.report.budget_report import budget_document, budget_text
    from craftc.report.diff_report import diff_document, diff_summary
    from craftc.report.plan_report import comparison_table, plan_summary, validation_text

    assert done.plan is not None
    warnings = (*done.plan.warnings, *hints)
    document = {"plan": plan_document(done.plan), "files": files, "warnings": list(warnings)}
    parts = [plan_summary(done.plan), comparison_table(done.plan), *filter(None, [validation_text(done.plan)])]
    if done.budget_curve is not None:
        document["budget_curve"] = budget_document(done.budget_curve)
        parts.append(budget_text(done.budget_curve))
    if in_use is not None:
        changes = diff_plans(in_use, done.plan)
        document["diff"] = diff_document(changes)
        parts.append(diff_summary(changes))
    parts.append(f"wrote {', '.join(files)}")
    return Result(document, "\n\n".join(parts), format, warnings=warnings)


def _check_curve(curve: Path | None, budget: str) -> None:
    from craftc.budget import parse_budget
    from craftc.errors import BadInput

    if curve is not None and parse_budget(budget).kind != "auto":
        raise BadInput("--curve draws how --budget auto chose: give both, or neither")


def _check_one_source(model: str | None, model_config: Path | None, expert_bytes: str | None) -> None:
    from craftc.errors import BadInput

    if expert_bytes is not None and (model is not None or model_config is not None):
        raise BadInput("give MODEL or --expert-bytes, not both: the model knows the size of its experts")
    if model is not None and model_config is not None:
        raise BadInput("give MODEL or --model-config, not both: each knows the layers and the size of their experts")


def _with_config(wanted: Compilation, config: Config) -> Compilation:
    from craftc.loads.name_layers import name_layers

    assert wanted.loads is not None
    return replace(wanted, loads=name_layers(wanted.loads, config), layers=config.layers)


def _with_layers(wanted: Compilation, expert_bytes: str | None) -> Compilation:
    from craftc.api import layers_of_loads
    from craftc.units import parse_size

    assert wanted.loads is not None
    size = None if expert_bytes is None else parse_size(expert_bytes)
    return replace(wanted, layers=layers_of_loads(wanted.loads, size))


def _with_model(wanted: Compilation, model: str, progress: ShownProgress) -> Compilation:
    from craftc.models.model_file import load_model_source
    from craftc.passes.pipelines import analysis_pipeline, run_pipeline

    progress("load model")
    source = load_model_source(model)
    found, _ = run_pipeline(analysis_pipeline(), replace(wanted, model=source.model, inputs=source.inputs), progress)
    return found
