"""craftc inspect: the MoE layers of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.options import ExpertBytes, Model, OutputFormat
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import shown_progress


def inspect(
    model: Model,
    graph: Annotated[
        Path | None,
        typer.Option("--graph", metavar="FILE.svg", help="Draw the dataflow graph.", show_default=False),
    ] = None,
    expert_bytes: ExpertBytes = None,
    format: OutputFormat = Format.text,
) -> Result:
    """List the MoE layers of a model.

    Shows sizes, layouts and routers, and near misses with the condition that failed. The exit code is 1 if there are
    only near misses.

    Example:
      craftc inspect model.py
    """
    from craftc.api import inspect as inspect_model
    from craftc.files.atomic_write import check_writable
    from craftc.models.given_sizes import parse_given_sizes
    from craftc.models.model_file import load_model_source
    from craftc.models.model_sizes import guessed_type, mtp_beside, true_sizes
    from craftc.report.inspection_report import inspection_document, inspection_text

    if graph is not None:
        check_writable(graph)
    given = parse_given_sizes(expert_bytes or ())
    with shown_progress("load model") as progress:
        source = load_model_source(model)
        found = inspect_model(source.model, source.inputs.example, on_pass=progress)
        unsure = () if given.every else guessed_type(model)
        layers = found.layers if unsure or not found.layers else true_sizes(model, found.layers, given)
        if graph is not None:
            from craftc.report.graph_picture import draw_graph

            progress("draw graph")
            draw_graph(found.graph, graph)
    return Result(
        inspection_document(source.name, layers, found.near_misses),
        inspection_text(source.name, layers, found.near_misses),
        format,
        exit_code=0 if found.layers else 1,
        warnings=unsure + mtp_beside(model),
    )
