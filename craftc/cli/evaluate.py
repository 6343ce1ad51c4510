"""craftc evaluate: a plan, or the placement that a server runs today, judged on loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.given_config import Mtp, given_config, given_sizes
from craftc.cli.options import ExpertBytes, GpusOfPlacement, Loads, LoadsFormat, ModelConfig, Nodes, OutputFormat
from craftc.cli.outcome import Format, Result

if TYPE_CHECKING:
    from craftc.loads.load_profile import LoadProfile
    from craftc.models.moe_layer import MoELayer


def evaluate(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, or with --as a server's placement file.")],
    loads: Loads,
    loads_format: LoadsFormat = None,
    placement_format: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="Read PLAN as a server's placement of this format (as in craftc export --to); needs --gpus.",
            show_default=False,
        ),
    ] = None,
    gpus: GpusOfPlacement = None,
    nodes: Nodes = 1,
    model_config: ModelConfig = None,
    mtp: Mtp = False,
    expert_bytes: ExpertBytes = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE.svg", help="Draw the load of every GPU in every layer.", show_default=False
        ),
    ] = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Judge a plan on measured loads.

    PLAN may also be the placement that a server runs today. Prints balancedness per layer and overall, next to
    contiguous placement and the upper bound.

    Example:
      craftc evaluate plan.json --loads tomorrow.npz
    """
    from craftc.errors import BadInput
    from craftc.loads.read_loads import read_loads
    from craftc.manifests.read_placement import read_placement
    from craftc.plans.evaluation import evaluate as evaluate_plan
    from craftc.plans.file import read_plan
    from craftc.report.evaluation_report import evaluation_document, evaluation_text
    from craftc.topology import Topology

    measured = read_loads(loads, loads_format)
    if placement_format is None:
        if gpus is not None or model_config is not None or expert_bytes or mtp:
            raise BadInput(
                "--gpus, --model-config, --mtp and --expert-bytes go with --as: a plan file holds all of them"
            )
        judged = read_plan(plan)
    else:
        if gpus is None:
            raise BadInput("--as needs --gpus G: a placement file does not say how many ranks it is for")
        measured, layers, hidden_layers = _model(measured, model_config, expert_bytes, mtp)
        judged = read_placement(plan, placement_format, Topology(gpus, nodes), layers, hidden_layers)
    evaluation = evaluate_plan(judged, measured)
    if picture is not None:
        from craftc.report.gpu_load_picture import draw_gpu_loads

        draw_gpu_loads(judged, measured, picture)
    return Result(evaluation_document(evaluation), evaluation_text(evaluation), format)


def _model(
    loads: LoadProfile, model_config: Path | None, expert_bytes: list[str] | None, mtp: bool
) -> tuple[LoadProfile, tuple[MoELayer, ...], int | None]:
    """Loads with the model's names, its MoE layers, and its decoder layers if known."""
    from craftc.errors import BadInput
    from craftc.loads.name_layers import layers_of_loads, name_layers, recorded_layers
    from craftc.models.given_sizes import sized

    given = given_sizes(expert_bytes)
    config = given_config(model_config, given, mtp)
    if config is not None:
        return name_layers(loads, config), recorded_layers(loads, config), config.hidden_layers
    if given:
        return loads, sized(layers_of_loads(loads, 1), given), None
    raise BadInput("--as needs the experts' size: give --model-config config.json, or --expert-bytes such as 84MiB")
