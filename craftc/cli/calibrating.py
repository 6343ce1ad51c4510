"""`--calibrate` and `--save`: the constants of a cluster fitted to measurements of the user's own server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from craftc.loads.load_profile import LoadProfile
    from craftc.serving.calibration import Calibration
    from craftc.serving.measurements import Measurement
    from craftc.serving.serving_model import ServingModel
    from craftc.topology import Topology

Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE.yaml",
        help="With --calibrate: write the cluster with the fitted numbers, for --cluster the next time.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


def given_measurements(calibrate: Path | None, save: Path | None) -> tuple[Measurement, ...]:
    """The rows of the file, none without one. Raises BadInput, also for a file that cannot be saved to."""
    from craftc.errors import BadInput
    from craftc.files.atomic_write import check_writable
    from craftc.serving.measurements import read_measurements

    if save is not None:
        if calibrate is None:
            raise BadInput("--save writes what --calibrate fits: give both, or neither")
        check_writable(save)
    return () if calibrate is None else read_measurements(calibrate)


def calibrated(
    measurements: Sequence[Measurement],
    loads: LoadProfile,
    judge: LoadProfile | None,
    server: ServingModel,
    topology: Topology,
) -> Calibration:
    """The cluster fitted to measurements of the server, whose arms are planned as the rows say. Raises BadInput."""
    from craftc.serving.calibration import calibrate
    from craftc.serving.held_out import held_out
    from craftc.serving.measured_arms import measured_arms

    split = held_out(server.matched(loads), None if judge is None else server.matched(judge))
    return calibrate(measurements, measured_arms(measurements, split, server, topology), server)
