"""craftc convert: a server's recording as craftc's own file of loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.options import LoadsFormat, OutputFormat
from craftc.cli.outcome import Format, Result


def convert(
    recording: Annotated[Path, typer.Argument(metavar="LOADS", help="A recording: a file, or the folder of one.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write: .npz or .safetensors.")
    ],
    loads_format: LoadsFormat = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            "--model-config", metavar="FILE", help="config.json: names and numbers the layers.", show_default=False
        ),
    ] = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Convert recorded loads, whatever system they come from, to .npz or .safetensors."""
    from craftc.load_file import write_loads
    from craftc.manifests.read_loads import detect_loads, read_loads
    from craftc.model_config import name_layers, read_model_config

    name = loads_format or detect_loads(recording)
    loads = read_loads(recording, name)
    if model_config is not None:
        loads = name_layers(loads, read_model_config(model_config))
    write_loads(loads, output)
    first, last = loads.layer_indices[0], loads.layer_indices[-1]
    document = {
        "files": [str(output)],
        "format": name,
        "steps": loads.steps,
        "layers": loads.layers,
        "experts": loads.experts,
        "layer_indices": list(loads.layer_indices),
        "tokens": int(loads.counts_SLE.sum()),
        "loads": f"sha256:{loads.sha256}",
    }
    text = (
        f"read {recording} as {name}: {loads.steps} steps x {loads.layers} MoE layers ({first} to {last}) "
        f"x {loads.experts} experts, {document['tokens']:,} routed tokens\nwrote {output}"
    )
    return Result(document, text, format)
