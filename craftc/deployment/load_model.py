"""`craftc.load`: a model from an output folder, each rank with its own copies only.

The model is built with parameters on the meta device, so that no more memory is touched than the weights of this rank.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craftc.deployment.model_reference import read_reference
from craftc.deployment.optimized_folder import PLAN, WEIGHTS
from craftc.deployment.prepare_model import replace_experts
from craftc.deployment.weights import METADATA_KEY, SHARED, gpu_file, plan_fingerprint
from craftc.errors import BadInput
from craftc.models.model_file import ModelSource, load_model_source
from craftc.passes.base import Compilation
from craftc.passes.rewrite_experts import Replicate, rewrite_experts
from craftc.pipelines import analysis_pipeline, run_pipeline
from craftc.plans.file import read_plan
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.module_list_experts import ModuleListExperts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from craftc.runtime.copy_choice import CopyRule


def load(
    folder: str | Path,
    *,
    group: ProcessGroup | DeviceMesh,
    model: str | None = None,
    copy_rule: CopyRule = "planned",
    device: str = "cpu",
) -> nn.Module:
    """The model in `folder`, which `craftc optimize --out` wrote, on this rank of `group`, ready to run.

    group: one rank per planned GPU (a ProcessGroup, or a one-dimensional DeviceMesh). Only the shared weights and this
    rank's own file are read. model: where the model's file or folder is now, if not where it was. device: where the
    weights go.

    A model whose experts are fused comes back as itself (`generate()` works); one with a ModuleList of experts as its
    traced graph. Raises BadInput where folder, model, plan and ranks do not belong together.
    """
    from craftc.runtime.agreement import check_ranks_agree
    from craftc.runtime.rank_group import rank_group
    from craftc.runtime.replicated_experts import distributed_experts

    root = Path(folder)
    plan = read_plan(root / PLAN)
    ranks = rank_group(group)
    check_ranks_agree(plan, ranks)
    source = _without_weights(read_reference(root) if model is None else model)

    def replicate(experts: nn.Module, layer: LayerPlan) -> nn.Module:
        return distributed_experts(experts, layer, ranks, copy_rule)

    built = _replicated(source, plan, replicate)
    shared = _WeightFile(root / WEIGHTS / SHARED, plan)
    own = _WeightFile(root / WEIGHTS / gpu_file(ranks.rank), plan)
    _fill(built, plan, shared, own, device)
    return built.to(device).eval()


class _WeightFile:
    """One safetensors file of `craftc.deployment.weights`, checked to be of `plan`."""

    def __init__(self, path: Path, plan: ReplicationPlan) -> None:
        from safetensors import SafetensorError, safe_open

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
        from safetensors import safe_open

        with safe_open(self.path, framework="pt", device=device) as file:
            for name in self.names:
                yield name, file.get_tensor(name)


def _without_weights(spec: str) -> ModelSource:
    """The model with its parameters (for Hugging Face folders: all tensors) on the meta device.

    A model file that looks at its parameters while it builds the model gets real ones, at the price of memory.
    """
    if Path(spec).is_dir():
        return load_model_source(str(Path(spec) / "config.json"))
    try:
        with _parameters_on_meta(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter.*")
            return load_model_source(spec)
    except BadInput as error:
        source = load_model_source(spec)
        warnings.warn(f"built with all its weights, because without them {error}", stacklevel=3)
        return source


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Every parameter goes to the meta device when a module gets it; what is computed besides (buffers) stays real."""
    from torch import nn

    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        original(module, name, parameter)

    nn.Module.register_parameter = register  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def _replicated(source: ModelSource, plan: ReplicationPlan, replicate: Replicate) -> nn.Module:
    """The model with replicated experts: in place, or in its traced graph where experts are kept in ModuleLists."""
    from torch import nn

    lists = [layer.name for layer in plan.layers if isinstance(_module(source.model, layer.name), nn.ModuleList)]
    if not lists:
        return replace_experts(source.model, plan, replicate)
    _fill_with_zeros(source.model)
    start = Compilation(model=source.model, inputs=source.inputs)
    found, _ = run_pipeline(analysis_pipeline(), start, None)
    assert found.graph is not None
    return rewrite_experts(found.graph, plan, replicate)


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _fill_with_zeros(model: nn.Module) -> None:
    """Parameters that can be computed with, for tracing through code that looks at values. Zeros that nobody has
    written to are no memory yet: the system maps one page of them for all."""
    import torch
    from torch import nn

    zeros: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                empty = torch.zeros(one.shape, dtype=one.dtype, device="cpu")
                module._parameters[name] = zeros.setdefault(id(one), nn.Parameter(empty, one.requires_grad))


def _fill(model: nn.Module, plan: ReplicationPlan, shared: _WeightFile, own: _WeightFile, device: str) -> None:
    """Give every tensor of `model` its value from the files. Raises BadInput where model and files do not match."""
    from torch import fx

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
            f"weights {shared.path.parent} hold {unknown[0]}, which the model has not, or in another shape "
            f"({len(unknown)} such tensors): they are of another model"
        )
    empty = [name for name in _needed(model) if name not in filled]
    if empty:
        raise BadInput(
            f"weights {shared.path.parent} have nothing for {empty[0]} of the model ({len(empty)} such tensors): "
            f"they are of another model"
        )


def _needed(model: nn.Module) -> Iterator[str]:
    """Names of all parameters, and of the buffers that have no value yet."""
    yield from (name for name, _ in model.named_parameters(remove_duplicate=False))
    yield from (name for name, buffer in model.named_buffers(remove_duplicate=False) if buffer.is_meta)


def _targets(model: nn.Module, layers: set[str], name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Where a stored tensor goes: `<layer>.<parameter>` is one level deeper here, and a row each for a ModuleList."""
    layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
    if layer is None:
        yield name, tensor
        return
    parameter = name[len(layer) + 1 :]
    experts = model.get_submodule(f"{layer}.experts")
    if not isinstance(experts, ModuleListExperts):
        yield f"{layer}.experts.{parameter}", tensor
        return
    for slot, row in enumerate(tensor):
        yield f"{layer}.experts.experts.{slot}.{parameter}", row


def _assign(model: nn.Module, name: str, tensor: Tensor) -> bool:
    """Put `tensor` at `name`; False where the model has no tensor of that name and shape."""
    from torch import nn

    path, _, leaf = name.rpartition(".")
    owner = _module(model, path)
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
    """Make the tensor at `name` the very one at `stored`; False where the model does not have both."""
    path, _, leaf = name.rpartition(".")
    owner = _module(model, path)
    stored_path, _, stored_leaf = stored.rpartition(".")
    source = _module(model, stored_path)
    if owner is None or source is None:
        return False
    for tensors, stored_tensors in ((owner._parameters, source._parameters), (owner._buffers, source._buffers)):
        if leaf in tensors and stored_leaf in stored_tensors:
            tensors[leaf] = stored_tensors[stored_leaf]  # type: ignore[assignment]
            return True
    return False
