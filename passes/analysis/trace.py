"""The model as an fx graph in which the experts and the router of every MoE layer are single nodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from craftc.errors import BadInput, Unsupported, one_line
from craftc.models.module_state import same_state
from craftc.passes.analysis.tracing.block_graph import blocks_above, blocks_of, blocks_to_read, read_blocks, whole_model
from craftc.passes.analysis.tracing.experts import ExpertsModule, find_experts, is_named_experts
from craftc.passes.analysis.tracing.model import call_model, trace_model
from craftc.passes.analysis.tracing.module_lists import fuse_module_lists
from craftc.passes.analysis.tracing.source_lines import reason_with_line
from craftc.passes.analysis.tracing.stacked import find_unsure, overlap, parameters_in_blocks
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, NearMiss, no_moe_layer, updated


@dataclass(frozen=True)
class Trace(Pass):
    """Traces through the owners of experts only; every other module is a leaf. Sizes stay symbolic; meta models work
    too.

    Placeholders are named after the example inputs' keys; targets are paths in the original model. `node.meta["val"]`
    holds a node's example value with tensors on the meta device. Every experts node is called with the experts ABI's
    arguments by position. Near misses are modules that look like experts and are not, and experts whose owner cannot be
    traced. Raises BadInput if the model cannot run on its example inputs, Unsupported if its top level cannot be
    traced.
    """

    name: ClassVar[str] = "trace"
    needs: ClassVar[tuple[str, ...]] = ("model", "inputs")
    gives: ClassVar[tuple[str, ...]] = ("graph",)
    changes_graph: ClassVar[bool] = True

    def run(self, compilation: Compilation) -> Compilation:
        graph_module, near_misses = trace(compilation.model, compilation.inputs.example)
        return updated(compilation, graph=graph_module, near_misses=near_misses)


def trace(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph of `model(**inputs)`, and the experts that could not become a node of their own."""
    _check_inputs(model, inputs)
    experts, near_misses = find_experts(model)
    unsure = find_unsure(model, experts, near_misses)
    near_misses += parameters_in_blocks(
        model, {module.path for module in (*experts, *unsure)} | {miss.name for miss in near_misses}
    )
    if not experts and not near_misses and not unsure:
        raise BadInput(no_moe_layer(type(model).__name__, ()))
    try:
        graph_module, missed = _traced(model, inputs, experts, near_misses)
    except Exception as error:
        _check_runs(model, inputs)
        if not _is_one_block(experts + unsure):
            raise Unsupported(
                f"{type(model).__name__}: its forward cannot be traced: {reason_with_line(error)}"
            ) from error
        only = (*experts, *unsure)[0]
        graph_module, missed = whole_model(model, inputs), (NearMiss(only.path, reason_with_line(error)),)
    blocks = blocks_to_read(model, experts, missed) | blocks_of(model, unsure)
    if not blocks:
        return graph_module, near_misses + missed
    above = blocks
    while above:
        blocks |= above
        leaves, others = _with_leaves(model, inputs, experts, near_misses, blocks)
        read, unread = read_blocks(leaves, inputs, tuple(blocks))
        above = blocks_above(model, experts + unsure, blocks, unread)
    quiet = {module.path for module in unsure} - {miss.name for miss in near_misses}
    kept = tuple(miss for miss in near_misses if not any(overlap(miss.name, module.path) for module in blocks))
    said = tuple(_both(near_misses, miss) for miss in unread if miss.name not in quiet or is_named_experts(miss.name))
    # If nothing could be read, what was traced is worth more than calls of the whole blocks.
    return graph_module if len(unread) == len(blocks) else read, kept + others + said


def _traced(
    model: nn.Module, inputs: Mapping[str, Any], experts: tuple[ExpertsModule, ...], almost: tuple[NearMiss, ...]
) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph, with every ModuleList fused that can be, and the experts that are no node of their own.

    Modules above those in `almost` are traced through as well.
    """
    graph_module, untraced = trace_model(model, inputs, experts, almost)
    unreached = {miss.name for miss in untraced}
    traced = [module for module in experts if module.path not in unreached]
    targets = {node.target for node in graph_module.graph.nodes}
    uncalled = tuple(
        NearMiss(module.path, "it is never called in a forward on the example inputs")
        for module in traced
        if module.layout == "fused" and module.path not in targets
    )
    lists = tuple(module for module in traced if module.layout == "module_list")
    unfused = fuse_module_lists(model, graph_module, lists)
    return graph_module, untraced + uncalled + unfused


def _with_leaves(
    model: nn.Module,
    inputs: Mapping[str, Any],
    experts: tuple[ExpertsModule, ...],
    near_misses: tuple[NearMiss, ...],
    blocks: Mapping[ExpertsModule, str],
) -> tuple[fx.GraphModule, tuple[NearMiss, ...]]:
    """The graph in which the blocks at the paths in `blocks` are leaves, and what is missed of the other experts."""
    paths = tuple(dict.fromkeys(blocks.values()))
    if "" in paths:
        return whole_model(model, inputs), ()
    inside = tuple(f"{path}." for path in paths)
    leaves = tuple(NearMiss(path, "") for path in paths)
    outside = tuple(miss for miss in near_misses if not miss.name.startswith(inside))
    kept = tuple(module for module in experts if not module.path.startswith(inside))
    return _traced(model, inputs, kept, outside + leaves)


def _both(near_misses: tuple[NearMiss, ...], unread: NearMiss) -> NearMiss:
    """What was wrong at first sight, and why reading did not help."""
    first = next((f"{miss.reason}; and " for miss in near_misses if miss.name == unread.name), "")
    return NearMiss(unread.name, f"{first}{unread.reason}")


def _is_one_block(experts: tuple[ExpertsModule, ...]) -> bool:
    """Whether the model is a single block that dispatches to its experts."""
    return len(experts) == 1 and experts[0].layout != "fused" and "." not in experts[0].path


def _check_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    kind = type(model).__name__
    if not inputs:
        raise BadInput(f"{kind}: example inputs are empty; give a dict of forward's keyword arguments")
    bad = [name for name in inputs if not isinstance(name, str) or not name.isidentifier()]
    if bad:
        raise BadInput(f"{kind}: example inputs must be named like forward's arguments, got {bad[0]!r}")
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(dict(inputs))):
        raise BadInput(f"{kind}: example inputs hold no tensor ({', '.join(inputs)})")
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BadInput(f"{kind}: example inputs do not fit forward({takes}): {error}") from None


def _check_runs(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    try:
        with torch.no_grad(), same_state(model):
            call_model(model, inputs)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(getattr(value, 'shape', ()))}" for name, value in inputs.items())
        raise BadInput(
            f"{type(model).__name__} cannot run on its example inputs ({shapes}): {one_line(error)}"
        ) from error
