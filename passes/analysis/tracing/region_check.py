"""Whether a traced region computes what the experts ABI says, tested with stand-ins for the experts.

The region's own code runs on random tokens and indices, with every expert replaced by a row-wise map of its own. So the
check needs no weights (models on the meta device work) and covers every expert, whichever the example inputs choose.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from craftc.runtime.module_list_experts import ModuleListExperts


@dataclass(frozen=True)
class DispatchRegion:
    """Nodes that compute an MoE layer's routed sum from hidden states, indices and weights."""

    hidden: fx.Node
    """Hidden states `[..., H]`."""
    indices: fx.Node
    """Experts of every token, `[..., K]` or `[...]` (K = 1), integer."""
    weights: fx.Node
    """Their weights, shaped like the indices."""
    output: fx.Node
    """The weighted sum, shaped like the hidden states."""
    nodes: frozenset[fx.Node]
    """Everything in between, including the output, excluding the three inputs."""


class StandIn(nn.Module):
    """A row-wise map that no other expert has."""

    def __init__(self, hidden: int, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(hidden, generator=generator).to(dtype))
        self.register_buffer("shift", torch.randn(hidden, generator=generator).to(dtype))

    scale: torch.Tensor
    shift: torch.Tensor

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows * self.scale + self.shift


def largest_difference(graph_module: fx.GraphModule, region: DispatchRegion, expert_of: Mapping[fx.Node, int]) -> float:
    """Largest |region - ModuleListExperts| over random tokens that reach every expert, relative to the largest output.

    `expert_of` gives the expert that each call in the region calls.
    """
    hidden, indices = region.hidden.meta["val"], region.indices.meta["val"]
    experts, width = len(expert_of), _top_k(region)
    tokens = hidden.numel() // hidden.shape[-1]
    generator = torch.Generator().manual_seed(0)
    stand_ins = [StandIn(hidden.shape[-1], hidden.dtype, generator) for _ in range(experts)]
    fused = ModuleListExperts(stand_ins)
    worst = 0.0
    trials = 1 + -(-experts // (tokens * width))
    for trial in range(trials + 1):
        hidden_TH = torch.randn(tokens, hidden.shape[-1], generator=generator).to(hidden.dtype)
        weights_TK = torch.rand(tokens, width, generator=generator).to(region.weights.meta["val"].dtype)
        shuffled_E = torch.randperm(experts, generator=generator)
        slots_TK = (torch.arange(tokens * width) + trial * tokens * width).reshape(tokens, width) % experts
        if trial == trials:  # all tokens to the same experts: those with a capacity would drop some
            slots_TK = slots_TK[:1].expand(tokens, width)
        index_TK = shuffled_E[slots_TK] if trial else slots_TK  # K consecutive slots: no expert twice for a token
        values = {
            region.hidden: hidden_TH.reshape(hidden.shape),
            region.indices: index_TK.to(indices.dtype).reshape(indices.shape),
            region.weights: weights_TK.reshape(indices.shape),
        }
        calls = {node: stand_ins[expert] for node, expert in expert_of.items()}
        expected = fused(hidden_TH, index_TK, weights_TK)
        actual = _evaluate(graph_module, region, values, calls)
        if not isinstance(actual, torch.Tensor) or actual.numel() != expected.numel():
            return float("inf")
        difference = (actual.reshape(expected.shape).double() - expected.double()).abs().max()
        worst = max(worst, float(difference / expected.abs().max()))
    return worst


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference that another order of summation can make, relative to the largest output."""
    return 16 * torch.finfo(dtype).eps


def _top_k(region: DispatchRegion) -> int:
    indices = region.indices.meta["val"]
    return indices.shape[-1] if indices.dim() == region.hidden.meta["val"].dim() else 1


def _evaluate(
    graph_module: fx.GraphModule,
    region: DispatchRegion,
    values: Mapping[fx.Node, torch.Tensor],
    calls: Mapping[fx.Node, nn.Module],
) -> Any:
    """The region's output. Sizes from outside have their example values; everything runs on the CPU."""
    environment: dict[fx.Node, Any] = dict(values)

    def value_of(node: fx.Node) -> Any:
        if node in environment:
            return environment[node]
        example = node.meta["val"]
        if isinstance(example, torch.Tensor):  # only its shape is read: the region is closed
            return torch.zeros(example.shape, dtype=example.dtype)
        return torch.device("cpu") if isinstance(example, torch.device) else example

    for node in sorted(region.nodes):
        args: Any = fx.map_arg(node.args, value_of)
        kwargs: Any = fx.map_arg(node.kwargs, value_of)
        if callable(node.target):
            environment[node] = node.target(*args, **kwargs)
        elif node.op == "get_attr":
            environment[node] = operator.attrgetter(node.target)(graph_module).cpu()
        elif node.op == "call_module":
            module = calls.get(node) or graph_module.get_submodule(node.target)
            environment[node] = module(*args, **kwargs)
        else:
            environment[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
    return environment[region.output]
