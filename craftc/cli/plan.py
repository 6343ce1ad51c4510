"""craftc plan: from measured loads to a plan file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.options import (
    Budget,
    Gpus,
    Loads,
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
    planner: Planner = "craft",
    solver: SolverChoice = Solver.highs,
    time_limit: TimeLimit = 30.0,
    format: OutputFormat = Format.text,
) -> Result:
    """Plan copies and placement for measured loads; without MODEL, --expert-bytes says how large an expert is."""
    from craftc.atomic_write import check_writable
    from craftc.budget import parse_budget
    from craftc.manifests.read_loads import read_loads
    from craftc.passes.base import Compilation
    from craftc.pipelines import planning_pipeline, run_pipeline
    from craftc.plan_file import plan_document, write_plan
    from craftc.planning_options import PlanningOptions
    from craftc.report.plan_report import comparison_table, plan_summary
    from craftc.topology import Topology

    wanted = Compilation(topology=Topology(gpus, nodes), budget_requested=parse_budget(budget).text)
    planning = planning_pipeline(PlanningOptions(planner, solver.value, time_limit))
    check_writable(output)
    with shown_progress("read loads") as progress:
        wanted = replace(wanted, loads=read_loads(loads))
        start = (
            _with_layers(wanted, expert_bytes) if model is None else _with_model(wanted, model, expert_bytes, progress)
        )
        done, _ = run_pipeline(planning, start, progress)
        assert done.plan is not None
        progress("write plan")
        write_plan(done.plan, output)
    text = "\n\n".join((plan_summary(done.plan), comparison_table(done.plan), f"wrote {output}"))
    return Result({"plan": plan_document(done.plan), "files": [str(output)]}, text, format)


def _with_layers(wanted: Compilation, expert_bytes: str | None) -> Compilation:
    from craftc.api import layers_of_loads
    from craftc.units import parse_size

    assert wanted.loads is not None
    size = None if expert_bytes is None else parse_size(expert_bytes)
    return replace(wanted, layers=layers_of_loads(wanted.loads, size))


def _with_model(wanted: Compilation, model: str, expert_bytes: str | None, progress: ShownProgress) -> Compilation:
    from craftc.errors import BadInput
    from craftc.model_file import load_model_source
    from craftc.pipelines import analysis_pipeline, run_pipeline

    if expert_bytes is not None:
        raise BadInput("give MODEL or --expert-bytes, not both: the model knows the size of its experts")
    progress("load model")
    source = load_model_source(model)
    found, _ = run_pipeline(analysis_pipeline(), replace(wanted, model=source.model, inputs=source.inputs), progress)
    return found
