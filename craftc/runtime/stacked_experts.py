"""Experts with stacked parameters behind the experts ABI, whatever their own forward takes.

Axes: T tokens, K experts per token, E experts, S selected ones, H hidden size, P (token, expert) pairs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from craftc.runtime.adapted_module import AdaptedModule
from craftc.runtime.expert_calls import StackedCalls


class StackedExperts(AdaptedModule):
    """Runs a module's own code on the rows that the experts ABI names; its tensors keep their names and are shared."""

    def __init__(self, module: nn.Module, calls: StackedCalls, num_experts: int) -> None:
        super().__init__(module)
        self.num_experts = num_experts
        """Number of experts E."""
        self.calls = calls

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs, `[T, H]`; index E stands for "no expert"."""
        top_k = top_k_index.shape[1]
        pair_P = (top_k_index.reshape(-1) < self.num_experts).nonzero()[:, 0]
        token_P, expert_P = pair_P // top_k, top_k_index.reshape(-1)[pair_P]
        if not len(pair_P):
            return torch.zeros_like(hidden_states)
        output_PH = self.calls.run(self.adapted(), hidden_states[token_P], expert_P, self.num_experts)
        weighted_PH = output_PH * top_k_weights.reshape(-1)[pair_P, None]
        return torch.zeros_like(hidden_states).index_add(0, token_P, weighted_PH.to(hidden_states.dtype))

    def select_experts(self, experts_S: tuple[int, ...]) -> StackedExperts:
        """The same forward over some of the experts."""
        return StackedExperts(_selected(self.adapted(), self.num_experts, experts_S), self.calls, len(experts_S))


def _selected(module: nn.Module, experts: int, experts_S: tuple[int, ...]) -> nn.Module:
    """The module with every tensor selected along dim 0 where that is the expert, and its counts of experts set."""
    local = copy.copy(module)

    def select(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, torch.tensor(experts_S, dtype=torch.int64, device=tensor.device))

    local._parameters = {
        name: parameter
        if parameter is None
        else nn.Parameter(select(parameter.detach()), requires_grad=parameter.requires_grad)
        for name, parameter in module._parameters.items()
    }
    local._buffers = {
        name: select(buffer) if buffer is not None and buffer.dim() and buffer.shape[0] == experts else buffer
        for name, buffer in module._buffers.items()
    }
    local._modules = {
        name: child if child is None else _selected(child, experts, experts_S)
        for name, child in module._modules.items()
    }
    for name, value in vars(module).items():
        if type(value) is int and value == experts and ("expert" in name.lower() or name.lower() in ("e", "n_e")):
            vars(local)[name] = len(experts_S)
    return local
