"""craftc profile: measured loads from a model's calibration inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.options import Model, OutputFormat
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import shown_progress


def profile(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The loads to write: .npz or .safetensors.")
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Calibration batches to run at most.", show_default=False)
    ] = None,
    mask_input: Annotated[
        str,
        typer.Option("--mask-input", metavar="NAME", help="Input that is 0 for padding; empty counts every token."),
    ] = "attention_mask",
    format: OutputFormat = Format.text,
) -> Result:
    """Run a model's calibration inputs and count the tokens that every expert gets, step by step."""
    from craftc.load_file import check_loads_name, write_loads
    from craftc.model_file import load_model_source
    from craftc.passes.base import Compilation
    from craftc.passes.profile_loads import ProfileLoads
    from craftc.pipelines import profiling_pipeline, run_pipeline
    from craftc.report.loads_report import loads_document, loads_text

    check_loads_name(output)
    with shown_progress("load model") as progress:
        source = load_model_source(model)
        profiling = ProfileLoads(
            mask_input=mask_input or None, max_steps=steps, model_name=source.name, on_step=progress.on_step
        )
        start = Compilation(model=source.model, inputs=source.inputs)
        done, _ = run_pipeline(profiling_pipeline(profiling), start, progress)
        assert done.loads is not None
        progress("write loads")
        write_loads(done.loads, output)
    text = f"{loads_text(done.loads)}\n\nwrote {output}"
    return Result({"loads": loads_document(done.loads), "files": [str(output)]}, text, format)
