"""A module called in another way than its own forward wants, under the same names of its tensors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AdaptedModule(nn.Module):
    """Holds what another module holds, under the same names; its subclasses call that module's own code."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._parameters, self._buffers = dict(module._parameters), dict(module._buffers)
        self._modules = dict(module._modules)
        self.training = module.training
        code = copy.copy(module)  # without its tensors: `.to()` and loaders must reach only one place
        code._parameters, code._buffers, code._modules = {}, {}, {}
        self._code = (code,)  # in a tuple: not a child

    def adapted(self) -> nn.Module:
        """The module itself, with the tensors and children that are here now."""
        module = copy.copy(self._code[0])
        module._parameters, module._buffers, module._modules = self._parameters, self._buffers, self._modules
        module.training = self.training
        return module


class UnweightedExpert(AdaptedModule):
    """An expert that weighs its output itself, `expert(rows [..., H], weights [n] or [n, 1])`, with weights of one."""

    def __init__(self, expert: nn.Module, weight_dims: int) -> None:
        """weight_dims: 1 or 2, dims of its weights."""
        super().__init__(expert)
        self.weight_dims = weight_dims

    def forward(self, rows: Tensor) -> Tensor:
        ones = torch.ones(rows.shape[:1] + (1,) * (self.weight_dims - 1), dtype=rows.dtype, device=rows.device)
        return self.adapted()(rows, ones)
