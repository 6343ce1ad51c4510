"""Reading the placement of another system as a plan, to evaluate it or to replan from it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from craftc.files.outside_documents import read_bytes
from craftc.manifests.format import Target
from craftc.manifests.registry import placement_format
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import PlanBudget, Provenance, ReplicationPlan, layer_plan
from craftc.topology import Topology


def read_placement(
    path: Path,
    format_name: str,
    topology: Topology,
    layers: tuple[MoELayer, ...],
    hidden_layers: int | None = None,
) -> ReplicationPlan:
    """The placement in `path`, written by or for the server behind `format_name`, as a plan without an estimate.

    layers: the model's MoE layers by ordinal, which the file describes only in part (`layers_of_loads`, or a model's
    config).
    hidden_layers: decoder layers of the model; without it, the last MoE layer is assumed to be the last layer.

    Raises BadInput.
    """
    fmt = placement_format(format_name)
    target = Target(topology.gpus, layers, hidden_layers or max(layer.index for layer in layers) + 1)
    placements = fmt.decode(read_bytes(path), target)
    planned = tuple(layer_plan(layer, placement) for layer, placement in zip(layers, placements, strict=True))
    spent = sum(layer.replicas * layer.expert_bytes for layer in planned)
    return ReplicationPlan(
        topology=topology,
        budget=PlanBudget(f"as in {path.name}", spent, spent),
        layers=planned,
        estimate=None,
        provenance=Provenance(
            craftc=version("craftc"),
            loads="unknown",
            model=None,
            planner=fmt.name,
            solver=f"read from {path.name}",
            status="heuristic",
            gap=None,
        ),
    )
