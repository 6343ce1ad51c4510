"""Options that say what serves and what is asked of it, shared by the commands that know goodput."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import SERVING

if TYPE_CHECKING:
    from craftc.models.model_config import ModelConfig
    from craftc.serving.serving_model import ServingModel
    from craftc.serving.workload import Workload


class PhaseChoice(StrEnum):
    """What runs on the server."""

    mixed = "mixed"
    prefill = "prefill"
    decode = "decode"


_CLUSTER = (
    "What the model runs on: a cluster file (YAML), or a preset: a100-80g-efa, a100-80g-ib, h100-ib, h200-ib, b200-ib, "
    "mi300x-ib. A preset is a chip on one common network; networks differ, so look at its numbers first."
)
Cluster = Annotated[str, typer.Option("--cluster", metavar="NAME|FILE", help=_CLUSTER, rich_help_panel=SERVING)]
OptionalCluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="NAME|FILE", help=_CLUSTER, show_default=False, rich_help_panel=SERVING),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE.csv",
        help="Measurements of your server (arm, replicas_per_gpu, request_rate, throughput, ttft_ms, itl_ms, "
        "kv_tokens), at least three: fits the numbers of the cluster that nobody can look up.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
InputTokens = Annotated[
    int,
    typer.Option("--input", "--input-tokens", metavar="TOKENS", help="Tokens of a prompt.", rich_help_panel=SERVING),
]
OutputTokens = Annotated[
    int,
    typer.Option(
        "--output", "--output-tokens", metavar="TOKENS", help="Tokens generated for a request.", rich_help_panel=SERVING
    ),
]
OutputTokensBesideFile = Annotated[
    int,
    typer.Option("--output-tokens", metavar="TOKENS", help="Tokens generated for a request.", rich_help_panel=SERVING),
]
"""For commands whose `--output` is a file."""
Chunk = Annotated[
    int,
    typer.Option(
        "--chunk",
        metavar="TOKENS",
        help="Most tokens of a prompt that a data-parallel rank prefills in one step.",
        rich_help_panel=SERVING,
    ),
]
Phase = Annotated[
    PhaseChoice,
    typer.Option(
        "--phase",
        help="Whole requests (mixed), or one half of them where prefill and decode have servers of their own.",
        rich_help_panel=SERVING,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="B",
        help="With --phase decode: requests in flight per GPU. As many as the KV cache holds by default.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
SloTtft = Annotated[
    str | None,
    typer.Option(
        "--slo-ttft",
        metavar="TIME",
        help="Longest mean time to the first token, such as 10s. Four times what it takes without waiting and without "
        "replicas by default.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
SloItl = Annotated[
    str | None,
    typer.Option(
        "--slo-itl",
        metavar="TIME",
        help="Longest mean time between tokens, such as 200ms. No limit by default.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]


def given_workload(
    input: int,
    output: int,
    chunk: int,
    phase: PhaseChoice,
    batch: int | None,
    slo_ttft: str | None,
    slo_itl: str | None,
) -> Workload:
    """The workload that the options say. Raises BadInput, naming the option that is wrong or has no use."""
    from craftc.errors import BadInput
    from craftc.serving.workload import Workload

    if batch is not None and phase is not PhaseChoice.decode:
        raise BadInput(f"--batch goes with --phase decode; in phase {phase.value} the KV cache decides how many fit")
    if slo_ttft is not None and phase is PhaseChoice.decode:
        raise BadInput("--slo-ttft has no use with --phase decode: another server prefills; limit --slo-itl instead")
    if slo_itl is not None and phase is PhaseChoice.prefill:
        raise BadInput("--slo-itl has no use with --phase prefill: another server decodes; limit --slo-ttft instead")
    return Workload(
        input,
        output,
        chunk,
        phase.value,
        batch,
        _seconds("--slo-ttft", slo_ttft),
        _seconds("--slo-itl", slo_itl),
    )


def given_server(config: ModelConfig | None, cluster: str, workload: Workload) -> ServingModel:
    """The model on the cluster. Raises BadInput for an unknown cluster, and without a model's config."""
    from craftc.errors import BadInput
    from craftc.serving.cluster import read_cluster
    from craftc.serving.serving_model import ServingModel

    if config is None:
        raise BadInput(
            "--cluster needs --model-config config.json: what a server computes outside its experts is read from it"
        )
    return ServingModel(config, read_cluster(cluster), workload)


def _seconds(option: str, text: str | None) -> float | None:
    from craftc.errors import BadInput
    from craftc.units import parse_seconds

    if text is None:
        return None
    try:
        seconds = parse_seconds(text)
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from None
    if seconds == 0:
        raise BadInput(f"{option}: a limit must be above 0, got {text!r}")
    return seconds
