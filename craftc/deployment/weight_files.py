"""Reading weights files: every tensor of a model gets its value from the files of its rank.

`craftc.deployment.weights` writes them and describes their content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, fx, nn

from craftc.deployment.weights import METADATA_KEY, plan_fingerprint
from craftc.errors import BadInput
from craftc.plans.replication_plan import ReplicationPlan
from craftc.runtime.local_experts import stacked_layout
from craftc.runtime.module_list_experts import ModuleListExperts


class WeightFile:
    """One safetensors file, checked to belong to `plan`."""

    def __init__(self, path: Path, plan: ReplicationPlan) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                metadata = (file.metadata() or {}).get(METADATA_KEY, "{}")
                self.names = tuple(file.keys())
        except (OSError, SafetensorError) as error:
            raise BadInput(f"cannot read weights {path}: {error}") from None
        self.metadata: dict[str, Any] = json.loads(metadata)
        if self.metadata.get("plan") != plan_fingerprint(plan):
            raise BadInput(f"weights {path} were written for another plan; run craftc optimize again")

    def tensors(self, device: str) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one at a time."""
        with safe_open(self.path, framework="pt", device=device) as file:
            for name in self.names:
                yield name, file.get_tensor(name)


def fill_model(model: nn.Module, plan: ReplicationPlan, shared: WeightFile, own: WeightFile, device: str) -> None:
    """Give every tensor of `model` its value from the files. Raises BadInput if model and files do not match."""
    layers = {layer.name for layer in plan.layers}
    filled: set[str] = set()
    unknown: list[str] = []
    for file in (shared, own):
        for name, tensor in file.tensors(device):
            for target, value in _targets(model, layers, name, tensor):
                if _assign(model, target, value):
                    filled.add(target)
                else:
                    unknown.append(target)
    for name, stored in shared.metadata.get("tied", {}).items():
        if _tie(model, name, stored):
            filled.add(name)
    if unknown and not isinstance(model, fx.GraphModule):  # a graph has only what its forward uses
        raise BadInput(
            f"weights {shared.path.parent} hold {unknown[0]}, which the model does not have in this shape "
            f"({len(unknown)} such tensors): they belong to another model"
        )
    empty = [name for name in _needed(model) if name not in filled]
    if empty:
        raise BadInput(
            f"weights {shared.path.parent} have nothing for {empty[0]} of the model ({len(empty)} such tensors): "
            f"they belong to another model"
        )


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`, or None."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _needed(model: nn.Module) -> Iterator[str]:
    """Names of all parameters, and of the buffers that have no value yet."""
    yield from (name for name, _ in model.named_parameters(remove_duplicate=False))
    yield from (name for name, buffer in model.named_buffers(remove_duplicate=False) if buffer.is_meta)


def _targets(model: nn.Module, layers: set[str], name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Where a stored tensor goes: `<layer>.<parameter>` is one level deeper in the model; a ModuleList takes one row
    each."""
    layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
    if layer is None:
        yield name, tensor
        return
    parameter = name[len(layer) + 1 :]
    experts = model.get_submodule(f"{layer}.experts")
    if not isinstance(experts, ModuleListExperts):
        rows = dict(stacked_layout(experts).rows).get(parameter, 1)
        yield f"{layer}.experts.{parameter}", tensor if rows == 1 else tensor.flatten(0, 1)
        return
    for slot, row in enumerate(tensor):
        yield f"{layer}.experts.experts.{slot}.{parameter}", row


def _assign(model: nn.Module, name: str, tensor: Tensor) -> bool:
    """Put `tensor` at `name`; False if the model has no tensor of that name and shape."""
    path, _, leaf = name.rpartition(".")
    owner = find_module(model, path)
    if owner is None:
        return False
    old = owner._parameters.get(leaf)
    if old is not None and old.shape == tensor.shape:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)
        return True
    buffer = owner._buffers.get(leaf)
    if buffer is not None and buffer.shape == tensor.shape:
        owner._buffers[leaf] = tensor
        return True
    return False


def _tie(model: nn.Module, name: str, stored: str) -> bool:
    """Make the tensor at `name` the same object as the one at `stored`; False if the model does not have both."""
    path, _, leaf = name.rpartition(".")
    owner = find_module(model, path)
    stored_path, _, stored_leaf = stored.rpartition(".")
    source = find_module(model, stored_path)
    if owner is None or source is None:
        return False
    for tensors, stored_tensors in ((owner._parameters, source._parameters), (owner._buffers, source._buffers)):
        if leaf in tensors and stored_leaf in stored_tensors:
            tensors[leaf] = stored_tensors[stored_leaf]  # type: ignore[assignment]
            return True
    return False
