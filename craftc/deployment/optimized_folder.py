"""What `craftc optimize --out DIR` writes, all or nothing."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from craftc.deployment.model_reference import FILE as MODEL
from craftc.deployment.model_reference import reference_bytes
from craftc.deployment.weights import write_weights
from craftc.files.output_folder import output_folder
from craftc.loads.file import safetensors_bytes
from craftc.loads.load_profile import LoadProfile
from craftc.plans.file import plan_bytes
from craftc.plans.replication_plan import ReplicationPlan

PLAN, LOADS, REPORT, WEIGHTS = "plan.json", "loads.safetensors", "report.txt", "weights"
OURS = (PLAN, LOADS, REPORT, MODEL, f"{WEIGHTS}/gpu-*.safetensors", f"{WEIGHTS}/shared.safetensors")
"""Files of an earlier run that a folder may hold and that a new run replaces."""


def write_optimized(
    path: Path, model: nn.Module, plan: ReplicationPlan, loads: LoadProfile, report: str, model_spec: str
) -> tuple[str, ...]:
    """Write plan, loads, report and weights of the original `model` into `path`; returns the names of the files
    relative to it.

    model_spec: the model as the user named it; written to `model.json`, so that `craftc.load_model` can build it.

    Raises BadInput if `path` cannot be written or holds files that craftc did not write.
    """
    with output_folder(path, OURS) as folder:
        (folder / PLAN).write_bytes(plan_bytes(plan))
        (folder / LOADS).write_bytes(safetensors_bytes(loads))
        (folder / REPORT).write_text(report, encoding="utf-8")
        (folder / MODEL).write_bytes(reference_bytes(model_spec, path))
        (folder / WEIGHTS).mkdir()
        weights = write_weights(model, plan, folder / WEIGHTS)
    return (PLAN, LOADS, REPORT, MODEL, *(f"{WEIGHTS}/{name}" for name in weights))
