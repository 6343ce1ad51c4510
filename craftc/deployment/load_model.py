"""`craftc.load_model`: a model from an output folder, each rank with its own copies only.

The model is built with parameters on the meta device, so it needs no more memory than the weights of this rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from craftc.deployment.model_reference import read_reference
from craftc.deployment.optimized_folder import PLAN, WEIGHTS
from craftc.deployment.prepare_model import replace_experts
from craftc.deployment.weight_files import WeightFile, fill_model, find_module
from craftc.deployment.weights import SHARED, gpu_file
from craftc.errors import BadInput, Unsupported
from craftc.models.model_file import ModelSource, load_model_source
from craftc.passes.pipelines import analysed
from craftc.passes.rewriting.rewrite_experts import Replicate, rewrite_experts
from craftc.plans.file import read_plan
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from craftc.runtime.copy_choice import CopyRule


def load_model(
    folder: str | Path,
    *,
    group: ProcessGroup | DeviceMesh,
    model: str | None = None,
    copy_rule: CopyRule = "planned",
    device: str = "cpu",
) -> nn.Module:
    """Load this rank's part of a model from a folder that `craftc optimize --out` wrote, ready to run.

    Only the shared weights and this rank's own file are read. A model with fused experts is returned as itself, so
    `generate()` works; a model whose blocks dispatch to experts of their own kind is returned as its traced graph.

    folder: what `craftc optimize --out` wrote.
    group: one rank per planned GPU: a ProcessGroup, or a one-dimensional DeviceMesh.
    model: where the model's file or folder is now, if it has moved.
    copy_rule: `planned` (the plan's shares, even ones by default) or `local-first` (the rank's own copy if it has one).
    device: where the weights go.

    Raises BadInput if folder, model, plan and ranks do not belong together.
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
    shared = WeightFile(root / WEIGHTS / SHARED, plan)
    own = WeightFile(root / WEIGHTS / gpu_file(ranks.rank), plan)
    fill_model(built, plan, shared, own, device)
    return built.to(device).eval()


def _without_weights(spec: str) -> ModelSource:
    """The model with its parameters (for Hugging Face folders: all tensors) on the meta device.

    A model file that reads its parameters while it builds the model gets real ones, which takes memory.
    """
    if Path(spec).is_dir():
        return load_model_source(str(Path(spec) / "config.json"))
    try:
        with _parameters_on_meta(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter.*")
            return load_model_source(spec)
    except BadInput as error:
        source = load_model_source(spec)
        warnings.warn(f"built with all its weights, because building without them failed: {error}", stacklevel=3)
        return source


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Every parameter goes to the meta device when a module registers it; other tensors (buffers) stay real."""
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
    """The model with replicated experts: in place, or in its traced graph if blocks dispatch to experts of their own
    kind."""
    dispatched = [layer.name for layer in plan.layers if _is_dispatched(find_module(source.model, layer.name))]
    if not dispatched:
        return replace_experts(source.model, plan, replicate)
    empty = next((name for name, buffer in source.model.named_buffers() if buffer.is_meta), None)
    if empty is not None:
        raise Unsupported(
            f"layer {dispatched[0]}: the block that calls its experts must run to be traced, and {empty} has no values "
            f"before weights are loaded: load the model itself and use craftc.prepare(model, plan, inputs=...)"
        )
    _fill_for_tracing(source.model, dispatched)
    return rewrite_experts(analysed(source.model, source.inputs).graph, plan, replicate)


def _is_dispatched(experts: nn.Module | None) -> bool:
    """Whether these experts are a container, or called with other arguments than the experts ABI's."""
    from craftc.passes.analysis.tracing.experts import why_not_fused
    from craftc.runtime.module_list_experts import is_container

    return experts is not None and (is_container(experts) or why_not_fused(experts) is not None)


def _fill_for_tracing(model: nn.Module, dispatched: list[str]) -> None:
    """Parameters that can be computed with, for tracing through code that reads values; the same on every rank.

    Experts (`dispatched`) get zeros, which take no memory while nobody writes to them: the system maps a single page
    for all of them. All else is random, so that no two tokens and no two tensors of a block are alike by chance.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    inside = tuple(f"{path}." for path in dispatched)
    filled: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in filled:
                values = torch.zeros(parameter.shape, dtype=parameter.dtype, device="cpu")
                if values.is_floating_point() and not f"{path}.".startswith(inside):
                    values.normal_(std=0.02, generator=generator)
                filled[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
            module._parameters[name] = filled[id(parameter)]
