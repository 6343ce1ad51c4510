"""What `--expert-bytes` and `--model-config` say, with multi-token-prediction layers if `--mtp` asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import INPUT

if TYPE_CHECKING:
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import ModelConfig

Mtp = Annotated[
    bool,
    typer.Option(
        "--mtp",
        help="With --model-config: keep the multi-token-prediction layers, as MoE layers after the last decoder layer. "
        "They are left out by default.",
        rich_help_panel=INPUT,
    ),
]


def given_sizes(expert_bytes: list[str] | None) -> GivenSizes:
    """The sizes that `--expert-bytes` gives. Raises BadInput."""
    from craftc.models.given_sizes import parse_given_sizes

    return parse_given_sizes(expert_bytes or ())


def given_config(model_config: Path | None, given: GivenSizes, mtp: bool) -> ModelConfig | None:
    """The config, or None if none is given. Raises BadInput for `--mtp` without one."""
    from craftc.errors import BadInput
    from craftc.models.model_config import read_model_config, read_model_config_with_mtp

    if model_config is None:
        if mtp:
            raise BadInput(
                "--mtp goes with --model-config, which says how many multi-token-prediction layers there are"
            )
        return None
    return read_model_config_with_mtp(model_config, given) if mtp else read_model_config(model_config, given)
