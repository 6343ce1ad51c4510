"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.command_help import BUDGET, INPUT, OUTPUT, SEARCH
from craftc.cli.outcome import Format


class Solver(StrEnum):
    """Solvers of the allocation."""

    auto = "auto"
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
        help="A file.py or file.py:factory (with build_model and example_inputs), a Hugging Face checkpoint folder, "
        "or a config.json.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model that the loads are of: it gives layer names and expert sizes. A config.json is enough.",
        show_default=False,
    ),
]
Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (craftc.plan/1).")]
Loads = Annotated[
    Path,
    typer.Option(
        "--loads",
        metavar="FILE",
        help="Measured loads: a file that craftc wrote, or a recording of SGLang, TensorRT-LLM, vLLM or omni-infer.",
        rich_help_panel=INPUT,
    ),
]
OptionalLoads = Annotated[
    Path | None,
    typer.Option(
        "--loads",
        metavar="FILE",
        help="Measured loads to plan from, instead of profiling the model.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
LoadsFormat = Annotated[
    str | None,
    typer.Option(
        "--loads-format",
        metavar="NAME",
        help="Format of the loads: npz, safetensors, sglang, trtllm, vllm, omni, craft or csv. Detected from the "
        "content by default.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(
        "--model-config",
        metavar="FILE",
        help="A Hugging Face config.json, or a folder with one: gives layer names and expert sizes, without model code "
        "or weights. Files of the checkpoint that lie beside it decide on sizes.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
ExpertBytes = Annotated[
    list[str] | None,
    typer.Option(
        "--expert-bytes",
        metavar="[LAYER=]SIZE",
        help="Size of one expert, such as 84MiB: in all layers, or in one, by its name or its decoder index (3=84MiB); "
        "may be given again. It decides over what the model says.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus", metavar="G", help="Number of GPUs (expert-parallel ranks) to plan for.", rich_help_panel=BUDGET
    ),
]
GpusOfPlacement = Annotated[
    int | None,
    typer.Option("--gpus", metavar="G", help="With --as: number of GPUs (expert-parallel ranks).", show_default=False),
]
Nodes = Annotated[
    int,
    typer.Option(
        "--nodes", metavar="N", help="Number of machines that hold the GPUs; must divide G.", rich_help_panel=BUDGET
    ),
]
Groups = Annotated[
    int,
    typer.Option(
        "--groups",
        metavar="N",
        help="Keep each of N groups of experts on one node, for group-limited routing. 1 means no grouping.",
        rich_help_panel=BUDGET,
    ),
]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="B",
        help="Memory for replicas: 64GiB (all GPUs together), 1GiB/gpu, 8replicas/gpu, 12.5% (of the experts' memory), "
        "or auto (as many as pay).",
        rich_help_panel=BUDGET,
    ),
]
DEFAULT_PLANNER = "craftc"
"""As in `craftc.solvers.problem`, whose import would slow the help down; a test compares the two."""
Planner = Annotated[
    str,
    typer.Option(
        "--planner",
        metavar="NAME",
        help="craftc, craft (as published) or eplb (the same number of replicas in every layer).",
        rich_help_panel=SEARCH,
    ),
]
SolverChoice = Annotated[
    Solver,
    typer.Option(
        "--solver",
        help="What allocates replicas to layers: a dynamic program or, where that would be large, HiGHS (auto), or an "
        "integer program.",
        rich_help_panel=SEARCH,
    ),
]
SharesChoice = Annotated[
    Shares,
    typer.Option(
        "--shares",
        help="How the copies of an expert share its tokens: evenly, or by linear programming (lp) in the layers where "
        "unseen steps gain.",
        rich_help_panel=SEARCH,
    ),
]
EffortChoice = Annotated[
    Effort,
    typer.Option(
        "--effort",
        help="How hard to search for placements. More effort takes longer and is never worse.",
        rich_help_panel=SEARCH,
    ),
]
ObjectiveChoice = Annotated[
    Objective | None,
    typer.Option(
        "--objective",
        help="What the plan should be good at: balancedness, step-time (how long steps wait for their slowest GPU), or "
        "worst-workload (balancedness of the workload that has the least). Balancedness by default, with --cluster "
        "step-time.",
        show_default=False,
        rich_help_panel=SEARCH,
    ),
]
TokensPerSlot = Annotated[
    float,
    typer.Option(
        "--tokens-per-slot",
        metavar="TOKENS",
        help="With --objective step-time: how many tokens take a GPU as long as reading the weights of one expert. A "
        "step lasts as long as its tokens or its slots, whichever takes longer; 0 counts tokens only.",
        rich_help_panel=SEARCH,
    ),
]
CrossValidate = Annotated[
    bool,
    typer.Option(
        "--cross-validate/--no-cross-validate",
        help="With four steps or more: let steps left out of planning decide which numbers of replicas pay, where that "
        "gains.",
        rich_help_panel=SEARCH,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        help="Time limit of the solver. The plan never claims more than was proven by then.",
        rich_help_panel=SEARCH,
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        metavar="N",
        help="Run on N real ranks on this machine, started through torchrun.",
        show_default=False,
    ),
]
OutputFormat = Annotated[
    Format,
    typer.Option("--format", help="With json, print one document on stdout and nothing else.", rich_help_panel=OUTPUT),
]
