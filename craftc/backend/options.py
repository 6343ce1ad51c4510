"""Options of `torch.compile(model, backend="craftc", options={...})`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch._dynamo.backends.registry import list_backends
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from craftc.budget import parse_budget
from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.replication_plan import ReplicationPlan
from craftc.topology import Topology

_EXAMPLE = 'options={"gpus": 8, "budget": "25%", "loads": "loads.npz"} or options={"plan": "plan.json"}'
_OPTIONS: Mapping[str, tuple[tuple[type[Any], ...], str]] = {
    "plan": ((str, os.PathLike, ReplicationPlan), "a ReplicationPlan or the path of a plan file"),
    "gpus": ((int,), "a whole number of at least 1"),
    "nodes": ((int,), "a whole number of at least 1"),
    "budget": ((str,), "a string such as '25%' or '8replicas/gpu'"),
    "planning": ((PlanningOptions,), "a craftc.PlanningOptions"),
    "loads": ((str, os.PathLike, LoadProfile), "a LoadProfile or the path of a loads file"),
    "profile_calls": ((int,), "a whole number of at least 1"),
    "inner": ((str,), "the name of a Dynamo backend"),
    "strict": ((bool,), "True or False"),
    "group": ((ProcessGroup, DeviceMesh), "a process group or a DeviceMesh of one dimension"),
}
"""What users may give: the types of the value, and how messages describe them."""


@dataclass(frozen=True, eq=False)
class CompileOptions:
    """What to compile for, checked."""

    plan: ReplicationPlan | Path | PlanningRequest
    """A ready plan or its file; or a request to plan from `loads` or from the loads of the first calls."""
    loads: LoadProfile | Path | None = None
    """Measured loads or their file; excludes `profile_calls`."""
    profile_calls: int = 16
    """Without `plan` and `loads`: calls of the model to count before planning, at least 1."""
    inner: str = "inductor"
    """Name of the Dynamo backend that compiles everything between the MoE layers."""
    strict: bool = False
    """Raise if a layer is left unchanged, instead of logging the reason once."""
    group: ProcessGroup | DeviceMesh | None = None
    """Ranks to run on: a process group, or a DeviceMesh of one dimension. None means the default process group if
    torch.distributed has more than one rank, else virtual GPUs in this process."""


def compile_options(options: Mapping[str, Any] | None, mode: str | None) -> CompileOptions:
    """The options in `options`, checked. Raises BadInput in one line; unknown options are refused by name."""
    if mode is not None:
        raise BadInput(f"torch.compile: backend craftc knows no mode {mode!r}; name the inner backend with options")
    if not options:
        raise BadInput(f"torch.compile: backend craftc needs options, such as {_EXAMPLE}")
    unknown = [str(name) for name in options if name not in _OPTIONS]
    if unknown:
        known = ", ".join(_OPTIONS)
        raise BadInput(f"torch.compile: backend craftc knows no option {', '.join(unknown)}; it has {known}")
    given = {name: value for name, value in options.items() if value is not None}
    _check_types(given)
    _check_source(given)
    for name in ("plan", "loads"):
        if isinstance(given.get(name), str | os.PathLike):
            given[name] = Path(given[name])
    if "plan" not in given:
        topology = Topology(given.pop("gpus"), given.pop("nodes", 1))
        how = given.pop("planning", PlanningOptions())
        given["plan"] = PlanningRequest(topology, parse_budget(given.pop("budget")), how)
    return CompileOptions(**given)


def _check_types(given: dict[str, Any]) -> None:
    for name, value in given.items():
        types, wanted = _OPTIONS[name]
        is_count = types != (int,) or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
        if not isinstance(value, types) or not is_count:
            raise BadInput(f"torch.compile: option {name} must be {wanted}, got {value!r}")
    inner = given.get("inner", "inductor")
    if inner == "craftc" or inner not in list_backends(exclude_tags=()):
        raise BadInput(
            f"torch.compile: option inner must be one of torch's own backends "
            f"({', '.join(list_backends())}, eager, aot_eager), got {inner!r}"
        )


def _check_source(given: dict[str, Any]) -> None:
    """Raise BadInput unless the options give exactly one way to a plan, with everything it needs."""
    if "plan" in given:
        extra = [name for name in ("gpus", "nodes", "budget", "planning", "loads", "profile_calls") if name in given]
        if extra:
            raise BadInput(f"torch.compile: option plan is a ready plan, so drop {', '.join(extra)}")
        return
    missing = [name for name in ("gpus", "budget") if name not in given]
    if missing:
        raise BadInput(f"torch.compile: backend craftc needs {' and '.join(missing)} to plan; give {_EXAMPLE}")
    if "loads" in given and "profile_calls" in given:
        raise BadInput("torch.compile: options loads and profile_calls exclude each other; give one")
