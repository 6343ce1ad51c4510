"""A ModuleList of experts behind the experts ABI, so both layouts look the same downstream.

Axes: T tokens, H hidden size, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import torch
from torch import nn


def is_container(module: object) -> TypeGuard[nn.ModuleList | nn.ModuleDict]:
    """Whether `module` holds modules side by side and has no forward: what experts are kept in."""
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


def expert_modules(container: nn.Module) -> dict[str, nn.Module]:
    """The experts in a container, or in the containers in it (groups of experts), in order, by path in it."""
    found: dict[str, nn.Module] = {}
    for name, child in container.named_children():
        inner = {f"{name}.{path}": module for path, module in expert_modules(child).items()}
        found |= inner if is_container(child) else {name: child}
    return found


class ModuleListExperts(nn.Module):
    """Runs each expert module on the tokens routed to it and adds up their weighted outputs."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        """The model's own expert modules, length E; each maps `[n, H]` to `[n, H]`, row by row; what it may return
        besides is ignored."""
        self.num_experts = len(self.experts)
        """Number of experts E."""

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum of the chosen experts' outputs, `[T, H]`.

        `hidden_states [T, H]`, `top_k_index [T, K]` int64 in 0..E (E itself stands for "no expert"),
        `top_k_weights [T, K]`. Experts without tokens are not called. One host synchronisation.
        """
        output_TH = torch.zeros_like(hidden_states)
        chosen = top_k_index.reshape(-1)
        order = chosen.argsort(stable=True)  # stable: an expert sees its tokens in their order
        counts_E = torch.bincount(chosen, minlength=self.num_experts + 1).tolist()
        token = order // top_k_index.shape[-1]
        weights = top_k_weights.reshape(-1)[order]
        start = 0
        for expert, count in zip(self.experts, counts_E, strict=False):
            if count == 0:
                continue
            rows = token[start : start + count]
            expert_output = first_output(expert(hidden_states[rows])) * weights[start : start + count, None]
            output_TH = output_TH.index_add(0, rows, expert_output.to(output_TH.dtype))
            start += count
        return output_TH

    def select_experts(self, experts_S: tuple[int, ...]) -> ModuleListExperts:
        """The same forward over some of the experts; their modules are shared."""
        return ModuleListExperts(self.experts[expert] for expert in experts_S)


def first_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The tensor that an expert returns, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
