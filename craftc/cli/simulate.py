"""craftc simulate: what replicas are worth in goodput, and how many of them pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import BUDGET, INPUT, OUTPUT, SEARCH
from craftc.cli.given_config import Mtp, given_config, given_sizes
from craftc.cli.options import DEFAULT_PLANNER, ExpertBytes, Loads, LoadsFormat, OutputFormat
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress
from craftc.cli.serving_options import (
    Batch,
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from craftc.loads.load_profile import LoadProfile
    from craftc.passes.base import Progress
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.report.simulated_arms import SimulatedArms
    from craftc.serving.goodput_curve import GoodputCurve
    from craftc.serving.plan_comparison import ComparedArm
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
    if plot is not None:
        _check_plot(plot)
    workload = given_workload(input, output, chunk, phase, batch, slo_ttft, slo_itl)
    server = given_server(given_config(model_config, given_sizes(expert_bytes), mtp), cluster, workload)
    server.ranks(topology)  # refuses GPUs that are not those of the cluster, before the loads are read
    with shown_progress("read loads") as progress:
        measured = read_loads(loads, loads_format)
        other = None if judge is None else read_loads(judge, loads_format)
        if given:
            return _compared(given, measured, other, server, progress, format)
        curves = _curves(planners, counts, measured, other, server, topology, progress)
        return _swept(curves, counts, server, topology, plot, format)


def _check_plot(plot: Path) -> None:
    from craftc.files.atomic_write import check_writable
    from craftc.report.goodput_picture import check_picture

    check_picture(plot)
    check_writable(plot)


def _curves(
    planners: Sequence[str],
    replicas: Sequence[int],
    loads: LoadProfile,
    judge: LoadProfile | None,
    server: ServingModel,
    topology: Topology,
    progress: ShownProgress,
) -> list[GoodputCurve]:
    """A curve for every planner; the first one's limit on the time to the first token holds for all."""
    from craftc.serving.goodput_curve import goodput_curve

    curves: list[GoodputCurve] = []
    for planner in planners:
        progress(f"plan, {planner}")
        curves.append(
            goodput_curve(
                loads, topology, server, planner, replicas, judge=judge, on_pass=_simulating(planner, progress)
            )
        )
        if server.workload.phase != "decode":
            server = replace(server, workload=replace(server.workload, ttft_limit_s=curves[0].ttft_limit_s))
    return curves


def _simulating(planner: str, progress: ShownProgress) -> Progress:
    """Shows when planning ends; its many short steps are not shown."""

    def on_pass(step: str) -> None:
        if step == "simulate":
            progress(f"simulate, {planner}")

    return on_pass


def _swept(
    curves: Sequence[GoodputCurve],
    replicas: Sequence[int],
    server: ServingModel,
    topology: Topology,
    plot: Path | None,
    format: Format,
) -> Result:
    from craftc.report.goodput_picture import draw_goodput
    from craftc.report.simulated_arms import arms_of_curves

    arms = arms_of_curves(curves, replicas, _without_replicas(curves, server, topology))
    result = _result(arms, server, topology, (*arms.judged.warnings, *arms.left_out), format)
    if plot is None:
        return result
    draw_goodput(curves, plot)
    return replace(result, document={**result.document, "files": [str(plot)]}, text=f"{result.text}\n\nwrote {plot}")


def _without_replicas(curves: Sequence[GoodputCurve], server: ServingModel, topology: Topology) -> ComparedArm | None:
    """Placement only, if none of the planners can do without replicas."""
    from craftc.serving.plan_comparison import placement_only_arm

    if any(point.replicas_per_gpu == 0 for curve in curves for point in curve.points):
        return None
    return placement_only_arm(curves[0].judged, server, topology)


def _compared(
    plans: dict[str, ReplicationPlan],
    loads: LoadProfile,
    judge: LoadProfile | None,
    server: ServingModel,
    progress: ShownProgress,
    format: Format,
) -> Result:
    from craftc.report.simulated_arms import arms_of_plans
    from craftc.serving.plan_comparison import compare_plans

    comparison = compare_plans(plans, loads, server, judge=judge, on_pass=progress)
    warnings = (*comparison.judged.warnings, *comparison.warnings)
    return _result(arms_of_plans(comparison), server, comparison.topology, warnings, format)


def _result(
    arms: SimulatedArms, server: ServingModel, topology: Topology, warnings: tuple[str, ...], format: Format
) -> Result:
    from craftc.report.simulation_document import simulation_document
    from craftc.report.simulation_report import simulation_text

    _require_served(arms, server)
    document = {**simulation_document(arms, server, topology), "files": [], "warnings": list(warnings)}
    return Result(document, simulation_text(arms, server, topology), format, warnings=warnings)


def _require_served(arms: SimulatedArms, server: ServingModel) -> None:
    """Refuse a limit on the time between tokens that nothing keeps: all arms would be worth nothing."""
    from craftc.errors import BadInput

    if arms.ceiling.worth.goodput == 0:
        raise BadInput(
            f"the limit of {server.workload.itl_limit_s:g} s on the time between tokens is not kept by a single "
            f"request per rank, even with perfect balance: allow more (--slo-itl)"
        )
