"""craftc profile: measured loads from a model's calibration inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.options import Model, OutputFormat, Ranks
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress

if TYPE_CHECKING:
    from craftc.loads.load_profile import LoadProfile


def profile(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file of loads to write: .npz or .safetensors.")
    ],
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="Largest number of calibration batches to run.", show_default=False),
    ] = None,
    mask_input: Annotated[
        str,
        typer.Option(
            "--mask-input",
            metavar="NAME",
            help="The input that is 0 for padding, whose tokens are not counted. Empty counts all tokens.",
        ),
    ] = "attention_mask",
    ranks: Ranks = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Measure the loads of a model.

    Runs the calibration inputs and counts the tokens that every expert gets, step by step.

    Example:
      craftc profile model.py -o loads.npz
    """
    from craftc.loads.file import check_loads_name, write_loads
    from craftc.ranks.jobs import profile_on_ranks
    from craftc.report.loads_report import loads_document, loads_text

    check_loads_name(output)
    with shown_progress("load model" if ranks is None else f"run {ranks} ranks") as progress:
        if ranks is None:
            loads = _profile_here(model, steps, mask_input or None, progress)
        else:
            loads = profile_on_ranks(model, ranks, steps, mask_input or None)
        progress("write loads")
        write_loads(loads, output)
    text = f"{loads_text(loads)}\n\nwrote {output}"
    return Result({"loads": loads_document(loads), "files": [str(output)]}, text, format)


def _profile_here(model: str, steps: int | None, mask_input: str | None, progress: ShownProgress) -> LoadProfile:
    from craftc.models.model_file import load_model_source
    from craftc.passes.analysis.profile_loads import ProfileLoads
    from craftc.passes.pipelines import profiled

    source = load_model_source(model)
    profiling = ProfileLoads(mask_input=mask_input, max_steps=steps, model_name=source.name, on_step=progress.on_step)
    return profiled(source.model, source.inputs, profiling, on_pass=progress).loads
