"""The options with which `craftc plan` starts from a plan in use, and that plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import REPLANNING
from craftc.topology import Topology

if TYPE_CHECKING:
    from craftc.models.model_config import ModelConfig
    from craftc.plans.replication_plan import ReplicationPlan

Old = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="OLD.json",
        help="The plan in use, to start from. Experts that stay on a GPU keep their slot.",
        show_default=False,
        rich_help_panel=REPLANNING,
    ),
]
PlacementFormat = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="FORMAT",
        help="Format of --from, if it is a server's placement (as in craftc export --to); needs --model-config.",
        show_default=False,
        rich_help_panel=REPLANNING,
    ),
]
MaxMove = Annotated[
    str | None,
    typer.Option(
        "--max-move",
        metavar="SIZE",
        help="Total bytes of weights that may move.",
        show_default=False,
        rich_help_panel=REPLANNING,
    ),
]


def plan_in_use(
    old: Path | None, placement_format: str | None, config: ModelConfig | None, topology: Topology
) -> ReplicationPlan | None:
    """The plan to replan from: a plan file, or a server's placement."""
    from craftc.errors import BadInput
    from craftc.manifests.read_placement import read_placement
    from craftc.plans.file import read_plan
    from craftc.plans.verifier import require_sound

    if placement_format is None:
        return None if old is None else read_plan(old)
    if old is None or config is None:
        raise BadInput("--as goes with --from PLACEMENT and --model-config config.json: the file holds no expert sizes")
    plan = read_placement(old, placement_format, topology, config.layers, config.hidden_layers)
    require_sound(plan)
    return plan
