"""A model's weights split by a plan: one file per GPU with its copies of experts, one with everything else.

    weights/gpu-00000.safetensors    `<layer name>.<parameter>`, `[slots on this GPU, ...]`: row s is slot s of the plan
    weights/shared.safetensors       all other parameters and buffers under their own names

For a fused layout `<parameter>` is the experts module's parameter (`gate_up_proj`; a flat one, with several rows for
each expert, gets an axis for them); for a ModuleList it is the parameter within one expert (`w1.weight`). A GPU without
slots in a layer has no tensors of this layer. Tied weights are stored once; the metadata of the shared file lists their
other names. Every file names its plan by fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from craftc.deployment.streamed_tensors import StreamedTensor, write_tensors
from craftc.errors import BadInput
from craftc.plans.file import plan_bytes
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.local_experts import stacked_layout
from craftc.runtime.module_list_experts import expert_modules, is_container

SHARED = "shared.safetensors"
METADATA_KEY = "craftc.weights"
"""Key of the files' metadata, JSON: `plan` (fingerprint), `gpu`; in the shared file `tied` (name -> stored name)."""


def gpu_file(gpu: int) -> str:
    """Name of a GPU's file."""
    return f"gpu-{gpu:05d}.safetensors"


def plan_fingerprint(plan: ReplicationPlan) -> str:
    """`sha256:` and the fingerprint of the plan file's bytes."""
    return f"sha256:{hashlib.sha256(plan_bytes(plan)).hexdigest()}"


def write_weights(model: nn.Module, plan: ReplicationPlan, folder: Path) -> tuple[str, ...]:
    """Write all files into `folder`, which must exist, and return their names.

    One parameter of one expert is in memory at a time.

    `model` is the original and has the layers of the plan. Raises BadInput if it has no weights (meta device).
    """
    tensors = _tensors(model)
    on_meta = next((name for name, tensor in tensors.items() if tensor.is_meta), None)
    if on_meta is not None:
        raise BadInput(f"the model has no weights to write: {on_meta} is on the meta device")
    stacks = [_Stack.of(model, layer) for layer in plan.layers]
    fingerprint = plan_fingerprint(plan)
    for gpu in range(plan.topology.gpus):
        copies = [tensor for stack in stacks for tensor in stack.copies_on(gpu)]
        write_tensors(folder / gpu_file(gpu), copies, _metadata(plan=fingerprint, gpu=gpu))
    _write_shared(folder / SHARED, tensors, {name for stack in stacks for name in stack.names}, fingerprint)
    return (*(gpu_file(gpu) for gpu in range(plan.topology.gpus)), SHARED)


@dataclass(frozen=True, eq=False)
class _Stack:
    """The tensors of one layer's experts."""

    layer: LayerPlan
    rows: dict[str, list[Tensor]]
    """By parameter: one row per expert, views of the model's own tensors."""
    names: frozenset[str]
    """Names in the model of the tensors that the rows belong to."""

    @classmethod
    def of(cls, model: nn.Module, layer: LayerPlan) -> _Stack:
        experts = model.get_submodule(layer.name)
        tensors = _tensors(experts)
        if is_container(experts):
            tensors_E = [_tensors(expert) for expert in expert_modules(experts).values()]
            rows = {name: [own[name] for own in tensors_E] for name in tensors_E[0]}
            return cls(layer, rows, frozenset(f"{layer.name}.{name}" for name in tensors))
        stacked = {name: (tensors[name].detach(), rows) for name, rows in stacked_layout(experts, layer.experts).rows}
        return cls(
            layer,
            {name: _by_expert(tensor, rows, layer.experts) for name, (tensor, rows) in stacked.items()},
            frozenset(f"{layer.name}.{name}" for name in stacked),
        )

    def copies_on(self, gpu: int) -> Iterator[StreamedTensor]:
        held = self.layer.placement[gpu]
        for name, row_E in self.rows.items():
            if held:
                yield StreamedTensor(
                    f"{self.layer.name}.{name}",
                    row_E[0].dtype,
                    (len(held), *row_E[0].shape),
                    lambda row_E=row_E: (row_E[expert] for expert in held),  # type: ignore[misc]
                )


def _by_expert(tensor: Tensor, rows: int, experts: int) -> list[Tensor]:
    """The rows of every expert; one row without its axis."""
    if rows == 1:
        return list(tensor)[:experts]
    return list(tensor.unflatten(0, (-1, rows)))[:experts]


def _write_shared(path: Path, tensors: dict[str, Tensor], of_experts: set[str], fingerprint: str) -> None:
    first_name: dict[int, str] = {}
    tied: dict[str, str] = {}
    kept: list[StreamedTensor] = []
    for name, tensor in tensors.items():
        if name in of_experts:
            continue
        if id(tensor) in first_name:
            tied[name] = first_name[id(tensor)]
            continue
        first_name[id(tensor)] = name
        kept.append(
            StreamedTensor(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: (tensor,))  # type: ignore[misc]
        )
    write_tensors(path, kept, _metadata(plan=fingerprint, tied=tied))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones under each name; non-persistent buffers too, so that nothing is missing
    in a model that is built on the meta device and filled from these files."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def _metadata(**values: object) -> dict[str, str]:
    return {"format": "pt", METADATA_KEY: json.dumps(values)}
