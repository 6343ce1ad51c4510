"""craftc convert: a server's recording as craftc's own file of loads, or a server's placement as a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.options import GpusOfPlacement, LoadsFormat, ModelConfig, Nodes, OutputFormat
from craftc.cli.outcome import Format, Result


def convert(
    recording: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A recording of loads (a file or a folder), or with --as a server's placement."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The file to write: .npz or .safetensors for loads, .json for a placement.",
        ),
    ],
    loads_format: LoadsFormat = None,
    placement_format: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="Read FILE as a placement of this format (as in craftc export --to); needs --gpus and --model-config.",
            show_default=False,
        ),
    ] = None,
    gpus: GpusOfPlacement = None,
    nodes: Nodes = 1,
    model_config: ModelConfig = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Convert a server's recording or placement to a file of craftc's own.

    Recorded loads become an .npz or .safetensors file. A placement becomes a plan file, to replan from.

    Example:
      craftc convert expert_distribution_recorder_1764.5.pt -o loads.npz
    """
    from craftc.errors import BadInput

    if placement_format is None:
        if gpus is not None:
            raise BadInput("--gpus goes with --as FORMAT: a recording of loads is not for a number of ranks")
        return _loads(recording, output, loads_format, model_config, format)
    if gpus is None or model_config is None:
        raise BadInput("--as needs --gpus G and --model-config config.json: a placement file holds neither")
    return _placement(recording, output, placement_format, gpus, nodes, model_config, format)


def _loads(
    recording: Path, output: Path, loads_format: str | None, model_config: Path | None, format: Format
) -> Result:
    from craftc.loads.file import write_loads
    from craftc.loads.name_layers import name_layers
    from craftc.loads.read_loads import detect_loads, read_loads
    from craftc.models.model_config import read_model_config

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


def _placement(
    placement: Path, output: Path, name: str, gpus: int, nodes: int, model_config: Path, format: Format
) -> Result:
    from craftc.manifests.read_placement import read_placement
    from craftc.models.model_config import read_model_config
    from craftc.plans.file import plan_document, write_plan
    from craftc.plans.verifier import require_sound
    from craftc.topology import Topology

    config = read_model_config(model_config)
    plan = read_placement(placement, name, Topology(gpus, nodes), config.layers, config.hidden_layers)
    require_sound(plan)
    write_plan(plan, output)
    text = (
        f"read {placement} as {name}: {len(plan.layers)} MoE layers on {gpus} GPUs, {plan.replicas} replicas\n"
        f"wrote {output}"
    )
    return Result({"files": [str(output)], "plan": plan_document(plan)}, text, format)
