"""craftc plan: from measured loads to a plan file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.options import (
    DEFAULT_PLANNER,
    Budget,
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
    from craftc.passes.base import Compilation
    from craftc.plan import ReplicationPlan


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
    from craftc.atomic_write import check_writable
    from craftc.budget import parse_budget
    from craftc.manifests.read_loads import read_loads
    from craftc.passes.base import Compilation
    from craftc.pipelines import planning_pipeline, run_pipeline
    from craftc.plan import moe_layer
    from craftc.plan_file import read_plan, write_plan
    from craftc.planning_options import PlanningOptions
    from craftc.report.budget_report import draw_budget_curve
    from craftc.solvers.planners import UNIFORM
    from craftc.topology import Topology
    from craftc.units import parse_size

    if uniform:
        planner = planner.removesuffix(UNIFORM) + UNIFORM
    wanted = Compilation(
        topology=Topology(gpus, nodes),
        budget_requested=parse_budget(budget).text,
        expert_groups=groups,
        objective=objective.value,
    )
    in_use = None if old is None else read_plan(old)
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
        _check_one_source(model, model_config, expert_bytes)
        if model is not None:
            start = _with_model(wanted, model, progress)
        elif model_config is not None:
            start = _with_config(wanted, model_config)
        elif in_use is not None and expert_bytes is None:
            start = replace(wanted, layers=tuple(moe_layer(layer) for layer in in_use.layers))
        else:
            start = _with_layers(wanted, expert_bytes)
        done, _ = run_pipeline(planning, start, progress)
        assert done.plan is not None
        progress("write plan")
        write_plan(done.plan, output)
        if curve is not None and done.budget_curve is not None:
            draw_budget_curve(done.budget_curve, curve)
    return _result(done, in_use, [str(path) for path in (output, curve) if path is not None], format)


def _result(done: Compilation, in_use: ReplicationPlan | None, files: list[str], format: Format) -> Result:
    """The plan, and where they were asked for the curve behind its budget and the changes from the plan in use."""
    from craftc.plan_diff import diff_plans
    from craftc.plan_file import plan_document
    from craftc.report.budget_report import budget_document, budget_text
    from craftc.report.diff_report import diff_document, diff_summary
    from craftc.report.plan_report import comparison_table, plan_summary, validation_text

    assert done.plan is not None
    document = {"plan": plan_document(done.plan), "files": files, "warnings": list(done.plan.warnings)}
    parts = [plan_summary(done.plan), comparison_table(done.plan), *filter(None, [validation_text(done.plan)])]
    if done.budget_curve is not None:
        document["budget_curve"] = budget_document(done.budget_curve)
        parts.append(budget_text(done.budget_curve))
    if in_use is not None:
        changes = diff_plans(in_use, done.plan)
        document["diff"] = diff_document(changes)
        parts.append(diff_summary(changes))
    parts.append(f"wrote {', '.join(files)}")
    return Result(document, "\n\n".join(parts), format, warnings=done.plan.warnings)


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


def _with_config(wanted: Compilation, model_config: Path) -> Compilation:
    from craftc.model_config import name_layers, read_model_config

    assert wanted.loads is not None
    config = read_model_config(model_config)
    return replace(wanted, loads=name_layers(wanted.loads, config), layers=config.layers)


def _with_layers(wanted: Compilation, expert_bytes: str | None) -> Compilation:
    from craftc.api import layers_of_loads
    from craftc.units import parse_size

    assert wanted.loads is not None
    size = None if expert_bytes is None else parse_size(expert_bytes)
    return replace(wanted, layers=layers_of_loads(wanted.loads, size))


def _with_model(wanted: Compilation, model: str, progress: ShownProgress) -> Compilation:
    from craftc.model_file import load_model_source
    from craftc.pipelines import analysis_pipeline, run_pipeline

    progress("load model")
    source = load_model_source(model)
    found, _ = run_pipeline(analysis_pipeline(), replace(wanted, model=source.model, inputs=source.inputs), progress)
    return found
