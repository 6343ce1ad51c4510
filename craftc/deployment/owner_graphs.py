"""Blocks whose own code dispatches to their experts, as graphs in which these experts have the experts ABI.

Experts in such a block cannot be replaced in place, because its code is written for them. Its graph computes the same
with one call of `ModuleListExperts` or `StackedExperts`, which can be replaced.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from craftc.errors import BadInput, Unsupported
from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.model import call_model, check_has_weights
from craftc.passes.rewriting.checking.output_comparison import check_difference, output_difference
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.stacked_experts import StackedExperts


def owner_graphs(model: nn.Module, lists: Iterable[str], inputs: Mapping[str, Any]) -> dict[str, fx.GraphModule]:
    """Path of all experts in `lists` (lists, or modules of another kind) to the graph of their owner; shares weights.

    `inputs`: one call of `model`, by keyword; its forward is run once. In the graph the experts keep the path that
    they have in their owner. Raises BadInput if the call does not reach an owner, Unsupported if an owner cannot
    be traced, VerificationFailed if its graph computes something else.
    """
    check_has_weights(model)
    owners = {path: path.rpartition(".")[0] for path in lists}
    if "" in owners.values():
        raise BadInput("the model itself dispatches to its ModuleList of experts: use craftc.optimize(...).model")
    calls = _calls(model, set(owners.values()), inputs)
    return {path: _graph_of(model.get_submodule(owner), path, calls[owner]) for path, owner in owners.items()}


def _calls(model: nn.Module, owners: set[str], inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The first call of every owner in one forward, as keyword arguments."""
    calls: dict[str, dict[str, Any]] = {}

    def record(owner: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        calls.setdefault(owner, bound)

    handles = [
        model.get_submodule(owner).register_forward_pre_hook(
            lambda module, args, kwargs, owner=owner: record(owner, module, args, kwargs), with_kwargs=True
        )
        for owner in owners
    ]
    try:
        with torch.no_grad():
            call_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    unreached = sorted(owners - set(calls))
    if unreached:
        raise BadInput(f"inputs: the model's forward on them never calls {unreached[0]}, which dispatches to experts")
    return calls


def _graph_of(owner: nn.Module, path: str, call: dict[str, Any]) -> fx.GraphModule:
    inner = path.rpartition(".")[2]
    graph, near_misses = trace(owner, call)
    if not isinstance(dict(graph.named_modules()).get(inner), ModuleListExperts | StackedExperts):
        reason = next((miss.reason for miss in near_misses if miss.name == inner), "they are not called")
        raise Unsupported(f"layer {path}: its experts cannot be replaced: {reason}")
    with torch.no_grad():
        check_difference(f"{path}, traced", output_difference(graph(**call), owner(**call)))
    return graph
