"""The options with which `craftc plan` starts from a plan in use, and that plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import REPLANNING
from craftc.topology import Topology

if TYPE_CHECKING:
    from craftc.loads.load_profile import LoadProfile
    from craftc.models.given_sizes import GivenSizes
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
        help="Format of --from, if it is a server's placement (as in craftc export --to); needs --model-config "
        "or --expert-bytes.",
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
    old: Path | None,
    placement_format: str | None,
    topology: Topology,
    config: ModelConfig | None,
    given: GivenSizes,
    recorded: Callable[[], LoadProfile],
) -> ReplicationPlan | None:
    """The plan to replan from: a plan file, or a server's placement of the layers of `config`, or of the loads."""
    from craftc.errors import BadInput
    from craftc.loads.name_layers import layers_of_loads, recorded_layers
    from craftc.manifests.read_placement import read_placement
    from craftc.models.given_sizes import sized
    from craftc.plans.file import read_plan
    from craftc.plans.verifier import require_sound

    if placement_format is None:
        return None if old is None else read_plan(old)
    if old is None or (config is None and not given):
        raise BadInput(
            "--as goes with --from PLACEMENT, and with --model-config config.json or --expert-bytes SIZE: the file "
            "holds no expert sizes"
        )
    layers = sized(layers_of_loads(recorded(), 1), given) if config is None else recorded_layers(recorded(), config)
    plan = read_placement(old, placement_format, topology, layers, None if config is None else config.hidden_layers)
    require_sound(plan)
    return plan
