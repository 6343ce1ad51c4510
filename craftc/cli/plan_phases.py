"""craftc plan --per-phase: a plan file for each phase of the loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.command_help import OUTPUT
from craftc.cli.outcome import Result
from craftc.cli.progress import ShownProgress

if TYPE_CHECKING:
    from torch import nn

    from craftc.loads.load_profile import LoadProfile
    from craftc.models.moe_layer import MoELayer
    from craftc.passes.compilation import Compilation
    from craftc.planning_options import PlanningRequest
    from craftc.plans.replication_plan import ReplicationPlan

PerPhase = Annotated[
    bool,
    typer.Option(
        "--per-phase",
        help="Write a plan for each phase of the loads, such as prefill and decode, if these run on servers of their "
        "own: FILE.prefill.json, FILE.decode.json.",
        rich_help_panel=OUTPUT,
    ),
]


def check_per_phase(request: PlanningRequest, curve: Path | None) -> None:
    """Raise BadInput for options that do not go with `--per-phase`."""
    from craftc.errors import BadInput

    if request.options.current_plan is not None:
        raise BadInput("--per-phase does not go with --from: replan each phase's plan alone, from its own loads")
    if curve is not None:
        raise BadInput("--per-phase does not go with --curve: each phase has a curve of its own; drop one of them")


def plan_phases(
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    model: nn.Module | None,
    output: Path,
    progress: ShownProgress,
    result: Callable[[Compilation, list[str]], Result],
) -> Result:
    """Plan every phase from its own steps and write all plans, or none.

    result: what to show of one plan, and of the names of its files. Raises BadInput if there are no phases, or a file
    cannot be written.
    """
    from craftc.files.atomic_write import check_writable
    from craftc.passes.pipelines import phases_found, planned
    from craftc.report.phases_report import phases_document, phases_text

    found = phases_found(request, loads, layers, on_pass=progress)
    names = [phase.name for phase in found.phases]
    paths = [output.with_name(f"{output.stem}.{name}{output.suffix}") for name in names]
    for path in paths:
        check_writable(path)
    done = [
        planned(
            request,
            loads,
            layers,
            model=model,
            phase=phase,
            on_pass=lambda step, name=phase.name: progress(f"{name}: {step}"),  # type: ignore[misc]
        )
        for phase in found.phases
    ]
    progress("write plans")
    _write_all([each.plan for each in done], paths)
    results = [result(each, [str(path)]) for each, path in zip(done, paths, strict=True)]
    document = {
        "phases": phases_document(found),
        "plans": {name: each.document for name, each in zip(names, results, strict=True)},
        "files": list(map(str, paths)),
        "warnings": [f"{name}: {text}" for name, each in zip(names, results, strict=True) for text in each.warnings],
    }
    texts = [f"{name}\n{each.text}" for name, each in zip(names, results, strict=True)]
    return Result(
        document,
        "\n\n".join([phases_text(found), *texts]),
        results[0].format,
        warnings=tuple(document["warnings"]),
    )


def _write_all(plans: Sequence[ReplicationPlan], paths: Sequence[Path]) -> None:
    """Write all files beside their names first, so that none is replaced if one cannot be written."""
    from craftc.files.atomic_write import atomic_file
    from craftc.plans.file import plan_bytes

    with ExitStack() as files:
        for plan, path in zip(plans, paths, strict=True):
            files.enter_context(atomic_file(path)).write_bytes(plan_bytes(plan))
