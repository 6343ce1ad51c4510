"""craftc convert: a server's recording as craftc's own file of loads, or a server's placement as a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.given_config import Mtp, given_config, given_sizes
from craftc.cli.options import ExpertBytes, GpusOfPlacement, LoadsFormat, ModelConfig, Nodes, OutputFormat
from craftc.cli.outcome import Format, Result

if TYPE_CHECKING:
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import ModelConfig as Config
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.topology import Topology


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
            help="Read FILE as a placement of this format (as in craftc export --to); needs --gpus, and "
            "--model-config or --expert-bytes.",
            show_default=False,
        ),
    ] = None,
    gpus: GpusOfPlacement = None,
    nodes: Nodes = 1,
    model_config: ModelConfig = None,
    mtp: Mtp = False,
    expert_bytes: ExpertBytes = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Convert a server's recording or placement to a file of craftc's own.

    Recorded loads become an .npz or .safetensors file. A placement becomes a plan file, to replan from.

    Example:
      craftc convert expert_distribution_recorder_1764.5.pt -o loads.npz
    """
    from craftc.errors import BadInput
    from craftc.models.given_sizes import GivenSizes
    from craftc.plans.file import plan_document, write_plan
    from craftc.topology import Topology

    if placement_format is None:
        if gpus is not None:
            raise BadInput("--gpus goes with --as FORMAT: a recording of loads is not for a number of ranks")
        if expert_bytes:
            raise BadInput("--expert-bytes goes with --as FORMAT: a file of loads holds no sizes")
        return _loads(recording, output, loads_format, given_config(model_config, GivenSizes(1), mtp), format)
    if gpus is None:
        raise BadInput("--as needs --gpus G: a placement file does not say how many ranks it is for")
    given = given_sizes(expert_bytes)
    config = given_config(model_config, given, mtp)
    plan = _placement(recording, placement_format, Topology(gpus, nodes), config, given)
    write_plan(plan, output)
    text = (
        f"read {recording} as {placement_format}: {len(plan.layers)} MoE layers on {gpus} GPUs, {plan.replicas} "
        f"replicas\nwrote {output}"
    )
    return Result({"files": [str(output)], "plan": plan_document(plan)}, text, format)


def _loads(recording: Path, output: Path, loads_format: str | None, config: Config | None, format: Format) -> Result:
    from craftc.loads.file import write_loads
    from craftc.loads.name_layers import left_out, name_layers
    from craftc.loads.read_loads import detect_loads, read_loads

    name = loads_format or detect_loads(recording)
    loads = read_loads(recording, name)
    warnings = () if config is None else left_out(loads, config)
    if config is not None:
        loads = name_layers(loads, config)
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
        "warnings": list(warnings),
    }
    text = (
        f"read {recording} as {name}: {loads.steps} steps x {loads.layers} MoE layers ({first} to {last}) "
        f"x {loads.experts_text}, {document['tokens']:,} routed tokens\nwrote {output}"
    )
    return Result(document, text, format, warnings=warnings)


def _placement(
    placement: Path, name: str, topology: Topology, config: Config | None, given: GivenSizes
) -> ReplicationPlan:
    """The plan that a placement file holds, of the layers of a model, or of all that are in the file."""
    from craftc.errors import BadInput
    from craftc.files.outside_documents import read_bytes
    from craftc.manifests.layers_in_file import layers_in_file
    from craftc.manifests.read_placement import read_placement
    from craftc.plans.verifier import require_sound

    if config is not None:
        plan = read_placement(placement, name, topology, config.layers, config.hidden_layers)
    elif given:
        plan = read_placement(placement, name, topology, layers_in_file(read_bytes(placement), name, given))
    else:
        raise BadInput("--as needs the experts' size: give --model-config config.json, or --expert-bytes such as 84MiB")
    require_sound(plan)
    return plan
