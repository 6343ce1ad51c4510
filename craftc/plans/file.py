"""Plan files, `craftc.plan/1`: JSON that holds a ReplicationPlan, field by field (docs/plan-file.md).

`python -m craftc.plans.file > craftc/plans/plan.schema.json` renews the committed JSON Schema.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from craftc.errors import BadInput
from craftc.files.atomic_write import write_bytes
from craftc.files.outside_documents import parse_json, validate_json
from craftc.plans.replication_plan import Estimate, LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.plans.verifier import verify_plan
from craftc.topology import Topology

FORMAT = "craftc.plan/1"
_FORMAT = re.compile(r"craftc\.plan/([0-9]{1,9})")


class _Document(BaseModel):
    """The file: a format line and the fields of ReplicationPlan. The configuration applies to all nested parts."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, title=FORMAT
    )

    format: Literal["craftc.plan/1"]
    """Name and major version of the format; readers refuse versions they do not know."""
    topology: Topology
    """GPUs and nodes."""
    budget: PlanBudget
    """Memory requested and spent."""
    layers: tuple[LayerPlan, ...]
    """One per MoE layer, by ordinal."""
    estimate: Estimate | None
    """Balancedness and baselines on the plan's own loads; null for a plan read from another system's file."""
    provenance: Provenance
    """Where the plan comes from: loads, model, planner, solver."""
    groups: int = 1
    """Groups of contiguous experts that each have all their copies on one node; 1, or left out, means no grouping."""


def read_plan(path: str | Path) -> ReplicationPlan:
    """Read a plan file, `craftc.plan/1`.

    Raises BadInput, in one line that begins with the path, for anything but a sound plan.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read plan {path}: {error.strerror or error}") from None
    try:
        return parse_plan(data)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def parse_plan(data: bytes) -> ReplicationPlan:
    """Parse the bytes of a plan file. Raises BadInput for unknown versions or keys, wrong types, and unsound plans."""
    _check_version(parse_json(data, "not a plan"))
    document = validate_json(_Document, data, "not a plan")
    plan = ReplicationPlan(**{field.name: getattr(document, field.name) for field in fields(ReplicationPlan)})
    _check_sizes(plan)
    found = verify_plan(plan)
    if found:
        more = f" (and {len(found) - 1} more violations)" if len(found) > 1 else ""
        raise BadInput(f"not a sound plan: {found[0]}{more}")
    return plan


def write_plan(plan: ReplicationPlan, path: str | Path) -> None:
    """Write a plan file, `craftc.plan/1`: whole or not at all; same plan, same bytes.

    plan: not verified again.
    path: an existing file is replaced.

    Raises BadInput if it cannot be written.
    """
    write_bytes(Path(path), plan_bytes(plan))


def plan_bytes(plan: ReplicationPlan) -> bytes:
    """The plan file of `plan`; same plan, same bytes."""
    return (_json_lines(plan_document(plan)) + "\n").encode()


def plan_document(plan: ReplicationPlan) -> dict[str, Any]:
    """`plan` as JSON values."""
    document = _Document.model_construct(
        format=FORMAT,
        topology=plan.topology,
        budget=plan.budget,
        layers=plan.layers,
        estimate=plan.estimate,
        provenance=plan.provenance,
        groups=plan.groups,
    ).model_dump(mode="json")
    if plan.groups == 1:
        del document["groups"]
    for name, default in (("objective", "balancedness"), ("curves", "own"), ("tokens_per_slot", 0.0)):
        if document["provenance"][name] == default:
            del document["provenance"][name]
    for row in document["estimate"]["planners"] if document["estimate"] else ():
        for name in ("objective", "step_time"):
            if row[name] is None:
                del row[name]
    for name in ("cross_validation", "goodput"):
        if plan.estimate is not None and getattr(plan.estimate, name) is None:
            del document["estimate"][name]
    for layer in document["layers"]:
        if layer["shares"] is None:
            del layer["shares"]
    return document


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of plan files, made from the dataclasses and their field docstrings."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_Document.model_json_schema()}


def _json_lines(value: Any, margin: str = "") -> str:
    """JSON with one line for every value that holds no further objects, such as a layer or a planner."""
    deeper = margin + " "
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(deeper + _json_lines(item, deeper) for item in value) + f"\n{margin}]"
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()) and not margin[1:]:
        parts = (f"{deeper}{json.dumps(key)}: {_json_lines(item, deeper)}" for key, item in value.items())
        return "{\n" + ",\n".join(parts) + f"\n{margin}}}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _check_sizes(plan: ReplicationPlan) -> None:
    """Raise BadInput for numbers out of range, before the verifier counts up to them."""
    for layer, placed in zip(plan.moe_layers, plan.layers, strict=True):  # a MoELayer checks its own numbers
        slots = sum(len(gpu) for gpu in placed.placement)
        if layer.experts > slots:
            raise BadInput(f"not a sound plan: layer {layer.name}: {layer.experts} experts in {slots} slots")


def _check_version(document: Any) -> None:
    written = document.get("format") if isinstance(document, dict) else None
    if not isinstance(written, str) or not (version := _FORMAT.fullmatch(written)):
        raise BadInput(f'not a plan: expected "format": "{FORMAT}"')
    if written != FORMAT:
        raise BadInput(
            f"format craftc.plan/{version[1]} is not known: this craftc reads {FORMAT}; use a matching craftc"
        )


if __name__ == "__main__":
    print(json.dumps(plan_schema(), indent=1))
