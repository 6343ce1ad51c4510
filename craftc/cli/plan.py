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
    Loads,
    LoadsFormat,
    ModelConfig,
    Nodes,
    OptionalModel,
    OutputFormat,
    Planner,
    Solver,
    SolverChoice,
    TimeLimit,
)
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress

if TYPE_CHECKING:
    from craftc.passes.base import Compilation


def plan(
    loads: Loads,
    gpus: Gpus,
    budget: Budget,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.json", help="The plan file to write.")],
    model: OptionalModel = None,
    nodes: Nodes = 1,
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
    planner: Planner = DEFAULT_PLANNER,
    solver: SolverChoice = Solver.highs,
    time_limit: TimeLimit = 30.0,
    format: OutputFormat = Format.text,
) -> Result:
    """Plan copies and placement for measured loads.

    Layers and expert sizes come from MODEL, from --model-config, or from --expert-bytes and the loads.
    """
    from craftc.atomic_write import check_writable
    from craftc.budget import parse_budget
    from craftc.manifests.read_loads import read_loads
    from craftc.passes.base import Compilation
    from craftc.pipelines import planning_pipeline, run_pipeline
    from craftc.plan_file import plan_document, write_plan
    from craftc.planning_options import PlanningOptions
    from craftc.report.plan_report import comparison_table, plan_summary
    from craftc.solvers.planners import UNIFORM
    from craftc.topology import Topology

    if uniform:
        planner = planner.removesuffix(UNIFORM) + UNIFORM
    wanted = Compilation(topology=Topology(gpus, nodes), budget_requested=parse_budget(budget).text)
    planning = planning_pipeline(PlanningOptions(planner, solver.value, time_limit))
    check_writable(output)
    with shown_progress("read loads") as progress:
        wanted = replace(wanted, loads=read_loads(loads, loads_format))
        _check_one_source(model, model_config, expert_bytes)
        if model is not None:
            start = _with_model(wanted, model, progress)
        elif model_config is not None:
            start = _with_config(wanted, model_config)
        else:
            start = _with_layers(wanted, expert_bytes)
        done, _ = run_pipeline(planning, start, progress)
        assert done.plan is not None
        progress("write plan")
        write_plan(done.plan, output)
    text = "\n\n".join((plan_summary(done.plan), comparison_table(done.plan), f"wrote {output}"))
    return Result({"plan": plan_document(done.plan), "files": [str(output)]}, text, format)


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
