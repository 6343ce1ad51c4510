"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.outcome import Format


class Solver(StrEnum):
    """Solvers of the allocation."""

    highs = "highs"
    cbc = "cbc"


class Shares(StrEnum):
    """How the copies of an expert share its tokens."""

    even = "even"
    lp = "lp"


class Effort(StrEnum):
    """How hard placements are searched."""

    low = "low"
    medium = "medium"
    high = "high"


class Objective(StrEnum):
    """What a plan is made to be good at."""

    balancedness = "balancedness"
    step_time = "step-time"
    worst_workload = "worst-workload"


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="file.py or file.py:factory (with build_model and example_inputs), a Hugging Face checkpoint folder, "
        "or its config.json.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="Gives layer names and expert sizes; a config.json is enough.", show_default=False
    ),
]
Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, craftc.plan/1.")]
Loads = Annotated[
    Path, typer.Option("--loads", metavar="FILE", help="Measured loads: .npz with counts [steps, layers, experts], ...")
]
OptionalLoads = Annotated[
    Path | None,
    typer.Option("--loads", metavar="FILE", help="Measured loads, instead of profiling the model.", show_default=False),
]
LoadsFormat = Annotated[
    str | None,
    typer.Option(
        "--loads-format",
        metavar="NAME",
        help="Insist on npz, safetensors, sglang, trtllm, vllm, omni, craft or csv; else the content tells.",
        show_default=False,
    ),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(
        "--model-config",
        metavar="FILE",
        help="A Hugging Face config.json: layers and expert sizes without model code or weights.",
        show_default=False,
    ),
]
Gpus = Annotated[int, typer.Option("--gpus", metavar="G", help="GPUs (expert-parallel ranks).")]
Nodes = Annotated[int, typer.Option("--nodes", metavar="N", help="Machines that the GPUs are in; divides G.")]
Groups = Annotated[
    int,
    typer.Option(
        "--groups",
        metavar="N",
        help="Keep each of N groups of experts on one node (group-limited routing); 1: no groups.",
    ),
]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="B",
        help="Memory for replicas: 64GiB (all GPUs together), 1GiB/gpu, 8replicas/gpu, 12.5% (of the experts' memory), "
        "or auto, as many as pay.",
    ),
]
DEFAULT_PLANNER = "craftc"
"""As in `craftc.solvers.problem`, whose import would slow the help down; a test compares the two."""
Planner = Annotated[
    str,
    typer.Option("--planner", metavar="NAME", help="craftc; craft, as published; or eplb, uniform replicas."),
]
SolverChoice = Annotated[Solver, typer.Option("--solver", help="Solver of the allocation.")]
SharesChoice = Annotated[
    Shares,
    typer.Option("--shares", help="lp: copies share tokens unevenly in the layers where unseen steps gain by it."),
]
EffortChoice = Annotated[
    Effort, typer.Option("--effort", help="How hard to search for placements; more takes longer and is never worse.")
]
ObjectiveChoice = Annotated[
    Objective,
    typer.Option(
        "--objective",
        help="step-time: the time that steps wait for their straggler; worst-workload: balancedness of the workload "
        "(name of steps) that has least.",
    ),
]
Validate = Annotated[
    bool,
    typer.Option("--validate", help="Allocate replicas by what they buy on steps left out of planning."),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit", metavar="SECONDS", help="Of the allocation's solver; it never claims more than it proved."
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks", metavar="N", help="Real ranks on this machine, started through torchrun.", show_default=False
    ),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="json prints one document on stdout and nothing else.")]
