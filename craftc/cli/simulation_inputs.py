"""What `craftc simulate` compares: planners and numbers of replicas, or plans as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from craftc.cli.options import DEFAULT_PLANNER
from craftc.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from craftc.plans.replication_plan import ReplicationPlan

DEFAULT_REPLICAS = "0,1,2,4,8,16,32"
"""As in `craftc.serving.goodput_curve`, whose import would slow the help down; a test compares the two."""


def parse_replicas(text: str | None) -> tuple[int, ...]:
    """Numbers of replicas per GPU, ascending. Raises BadInput for anything but different whole numbers from 0 on."""
    from craftc.errors import BadInput

    words = _words("--replicas", DEFAULT_REPLICAS if text is None else text)
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 9):
            raise BadInput(
                f"--replicas: {word!r} is not a number of replicas per GPU; write such as {DEFAULT_REPLICAS}"
            )
    numbers = [int(word) for word in words]
    _require_different("--replicas", [str(number) for number in numbers])
    return tuple(sorted(numbers))


def parse_planners(text: str | None) -> tuple[str, ...]:
    """Names of planners, in order. Raises BadInput for unknown ones and for repetitions."""
    from craftc.solvers.planners.registry import planner_named

    names = _words("--planner", DEFAULT_PLANNER if text is None else text)
    _require_different("--planner", names)
    for name in names:
        planner_named(name)
    return tuple(names)


def given_plans(paths: Sequence[Path], sweep_options: Mapping[str, object]) -> dict[str, ReplicationPlan]:
    """Plans by file.

    sweep_options: values of options that have no use beside plans, by name.

    Raises BadInput for a plan that cannot be read or is given twice, and for such an option.
    """
    from craftc.errors import BadInput
    from craftc.plans.file import read_plan

    if not paths:
        return {}
    for option, value in sweep_options.items():
        if value is not None:
            raise BadInput(f"{option} is for planning with several numbers of replicas: drop it, or drop the plans")
    names = [str(path) for path in paths]
    _require_different("plans", names)
    return {name: read_plan(name) for name in names}


def given_topology(plans: Mapping[str, ReplicationPlan], gpus: int | None, nodes: int | None) -> Topology:
    """GPUs and nodes, of the plans if there are any. Raises BadInput if these differ, or options contradict them."""
    from craftc.errors import BadInput
    from craftc.serving.plan_comparison import common_topology

    if not plans:
        if gpus is None:
            raise BadInput("give --gpus G, or plans to compare: they say how many GPUs they are for")
        return Topology(gpus, 1 if nodes is None else nodes)
    topology, name = common_topology(plans), next(iter(plans))
    for option, value, own in (("--gpus", gpus, topology.gpus), ("--nodes", nodes, topology.nodes)):
        if value not in (None, own):
            raise BadInput(f"{option} {value}, but {name} is for {own}: drop {option}, a plan says it itself")
    return topology


def _words(option: str, text: str) -> list[str]:
    from craftc.errors import BadInput

    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise BadInput(f"{option}: something is missing between the commas of {text!r}")
    return words


def _require_different(option: str, words: Sequence[str]) -> None:
    from craftc.errors import BadInput

    for number, word in enumerate(words):
        if word in words[:number]:
            raise BadInput(f"{option}: {word} is given twice")
