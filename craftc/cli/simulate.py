"""craftc simulate: what replicas are worth in goodput, and how many of them pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.calibrating import Save, calibrated, given_measurements
from craftc.cli.command_help import BUDGET, INPUT, OUTPUT, SEARCH
from craftc.cli.given_config import Mtp, given_config, given_sizes
from craftc.cli.options import DEFAULT_PLANNER, ExpertBytes, Loads, LoadsFormat, OutputFormat
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import shown_progress
from craftc.cli.serving_options import (
    Batch,
    Calibrate,
    Chunk,
    Cluster,
    InputTokens,
    OutputTokens,
    Phase,
    PhaseChoice,
    SloItl,
    SloTtft,
    given_server,
    given_workload,
)
from craftc.cli.simulation_inputs import DEFAULT_REPLICAS, given_plans, given_topology, parse_planners, parse_replicas
from craftc.cli.simulation_runs import compared_arms, swept_arms, swept_curves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from craftc.loads.load_profile import LoadProfile
    from craftc.report.simulated_arms import SimulatedArms
    from craftc.serving.calibration import Calibration
    from craftc.serving.goodput_curve import GoodputCurve
    from craftc.serving.serving_model import ServingModel
    from craftc.topology import Topology


Plans = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PLAN",
        help="Plan files to compare as they are. Without any, craftc plans with every number of replicas.",
        show_default=False,
    ),
]
Config = Annotated[
    Path,
    typer.Option(
        "--model-config",
        metavar="FILE",
        help="A Hugging Face config.json, or a folder with one: what the model computes, and what it keeps in memory.",
        rich_help_panel=INPUT,
    ),
]
Judge = Annotated[
    Path | None,
    typer.Option(
        "--judge",
        metavar="FILE",
        help="Other loads to judge on. By default half of the steps of --loads are planned from, and the others judge.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
GpusUnlessPlanned = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="G",
        help="Number of GPUs (expert-parallel ranks); plans say it themselves.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
NodesUnlessPlanned = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        help="Number of machines that hold the GPUs, 1 by default; plans say it themselves.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Replicas = Annotated[
    str | None,
    typer.Option(
        "--replicas",
        metavar="R,...",
        help=f"Replicas per GPU to try, all layers together; {DEFAULT_REPLICAS} by default. 0 is always tried.",
        show_default=False,
        rich_help_panel=BUDGET,
    ),
]
Planners = Annotated[
    str | None,
    typer.Option(
        "--planner",
        metavar="NAME,...",
        help=f"Planners to compare: craftc, craft, eplb; {DEFAULT_PLANNER} by default. The first one's number of "
        "replicas is the answer.",
        show_default=False,
        rich_help_panel=SEARCH,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw goodput and KV cache against replicas per GPU, as .svg or .png.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


def simulate(
    loads: Loads,
    model_config: Config,
    cluster: Cluster,
    plans: Plans = None,
    gpus: GpusUnlessPlanned = None,
    nodes: NodesUnlessPlanned = None,
    replicas: Replicas = None,
    planner: Planners = None,
    judge: Judge = None,
    loads_format: LoadsFormat = None,
    mtp: Mtp = False,
    expert_bytes: ExpertBytes = None,
    input: InputTokens = 4096,
    output: OutputTokens = 256,
    chunk: Chunk = 4096,
    phase: Phase = PhaseChoice.mixed,
    batch: Batch = None,
    slo_ttft: SloTtft = None,
    slo_itl: SloItl = None,
    calibrate: Calibrate = None,
    save: Save = None,
    plot: Plot = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Say what replicas are worth in goodput: they buy balance and cost KV cache.

    Says first whether balancing helps at all, then what each number of replicas, or each PLAN, is worth on a cluster.

    Example:
      craftc simulate --loads loads.npz --model-config config.json --cluster h200-ib --gpus 8
    """
    from craftc.loads.read_loads import read_loads

    given = given_plans(plans or (), {"--replicas": replicas, "--planner": planner, "--plot": plot})
    topology = given_topology(given, gpus, nodes)
    planners, counts = parse_planners(planner), parse_replicas(replicas)
    workload = given_workload(input, output, chunk, phase, batch, slo_ttft, slo_itl)
    server = given_server(given_config(model_config, given_sizes(expert_bytes), mtp), cluster, workload)
    server.ranks(topology)  # refuses GPUs that are not those of the cluster, before the loads are read
    measurements = given_measurements(calibrate, save)
    if plot is not None:
        _check_plot(plot)
    with shown_progress("read loads") as progress:
        recorded = read_loads(loads, loads_format)
        other = None if judge is None else _read_judge(judge, loads_format, server)
        fitted = None
        if measurements:
            progress("calibrate")
            fitted = calibrated(measurements, recorded, other, server, topology)
            server = replace(server, cluster=fitted.cluster)
        curves: list[GoodputCurve] = []
        if given:
            arms, warnings = compared_arms(given, recorded, other, server, progress)
        else:
            curves = swept_curves(planners, counts, recorded, other, server, topology, progress)
            arms, warnings = swept_arms(curves, counts, server, topology)
        _require_served(arms, server)
        return _result(arms, server, topology, fitted, warnings, _written(curves, plot, fitted, save), format)


def _check_plot(plot: Path) -> None:
    from craftc.files.atomic_write import check_writable
    from craftc.report.goodput_picture import check_picture

    check_picture(plot)
    check_writable(plot)


def _read_judge(path: Path, loads_format: str | None, server: ServingModel) -> LoadProfile:
    """The loads to judge on. Raises BadInput, naming them, if they are of another model."""
    from craftc.errors import BadInput
    from craftc.loads.read_loads import read_loads

    loads = read_loads(path, loads_format)
    try:
        server.matched(loads)
    except BadInput as error:
        raise BadInput(f"--judge {path}: {error}") from None
    return loads


def _written(
    curves: Sequence[GoodputCurve], plot: Path | None, fitted: Calibration | None, save: Path | None
) -> list[str]:
    """Write the picture and the calibrated cluster, as far as they are requested; returns the files' names."""
    from craftc.report.goodput_picture import draw_goodput
    from craftc.serving.cluster import write_cluster

    if plot is not None:
        draw_goodput(curves, plot)
    if fitted is not None and save is not None:
        write_cluster(fitted.cluster, save)
    return [str(path) for path in (plot, save) if path is not None]


def _result(
    arms: SimulatedArms,
    server: ServingModel,
    topology: Topology,
    fitted: Calibration | None,
    warnings: tuple[str, ...],
    files: list[str],
    format: Format,
) -> Result:
    from craftc.report.simulation_document import simulation_document
    from craftc.report.simulation_report import simulation_text

    document, text = simulation_document(arms, server, topology), [simulation_text(arms, server, topology)]
    if fitted is not None:
        from craftc.report.calibration_report import calibration_document, calibration_text

        warnings = (*warnings, *fitted.warnings)
        document["calibration"] = calibration_document(fitted)
        text.append(calibration_text(fitted))
    if files:
        text.append(f"wrote {', '.join(files)}")
    document |= {"files": files, "warnings": list(warnings)}
    return Result(document, "\n\n".join(text), format, warnings=warnings)


def _require_served(arms: SimulatedArms, server: ServingModel) -> None:
    """Refuse a limit on the time between tokens that nothing keeps: all arms would be worth nothing."""
    from craftc.errors import BadInput

    if arms.ceiling.worth.goodput == 0:
        raise BadInput(
            f"the limit of {server.workload.itl_limit_s:g} s on the time between tokens is not kept by a single "
            f"request per rank, even with perfect balance: allow more (--slo-itl)"
        )
