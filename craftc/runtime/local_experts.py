"""Some of the experts of an experts module, run by the module's own code.

Axes: E logical experts, S slots, T tokens, K experts per token, P = T x K (token, expert) pairs, H hidden size.
"""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from craftc.errors import Unsupported


@runtime_checkable
class SelectsExperts(Protocol):
    """An experts module that can make a module of some of its experts (experts kept as separate modules)."""

    def select_experts(self, experts_S: tuple[int, ...]) -> nn.Module:
        """A module with the same forward whose expert s is this module's expert `experts_S[s]`."""


def local_experts(experts: nn.Module, experts_S: tuple[int, ...]) -> nn.Module:
    """A module with the same class and forward whose expert s is `experts`'s expert `experts_S[s]`.

    Fused layouts: a shallow copy with every parameter and buffer selected along dim 0 and `num_experts` set to S;
    anything else, sub-modules included, is shared with `experts`. Works on the meta device.
    Raises Unsupported if dim 0 is not the expert everywhere.
    """
    if isinstance(experts, SelectsExperts):
        return experts.select_experts(experts_S)
    count = getattr(experts, "num_experts", None)
    alien = [name for name, tensor in _tensors(experts).items() if tensor.dim() == 0 or tensor.shape[0] != count]
    if not isinstance(count, int) or alien or not _tensors(experts):
        raise Unsupported(
            f"{type(experts).__name__}: cannot select single experts, because num_experts is {count} and "
            f"dim 0 is not the expert in {alien or 'any parameter'}"
        )
    local = copy.copy(experts)
    local._parameters = {
        name: _select_parameter(parameter, experts_S) for name, parameter in experts._parameters.items()
    }
    local._buffers = {
        name: None if buffer is None else _select(buffer, experts_S) for name, buffer in experts._buffers.items()
    }
    local._modules = dict(experts._modules)
    vars(local)["num_experts"] = len(experts_S)
    return local


def expert_count(experts: nn.Module) -> int:
    """Number of experts of a module that `local_experts` accepts."""
    return int(experts.num_experts)  # type: ignore[arg-type]


def run_rows(experts: nn.Module, hidden_PH: Tensor, expert_P: Tensor, weight_dtype: torch.dtype) -> Tensor:
    """Run every row through one expert, unweighted, `[P, H]`: the experts ABI with one expert per token and weight 1.

    Weights are applied on the rank that tokens come from (`weighted_sum`), in full precision; they do not travel.
    """
    ones_P1 = torch.ones(expert_P.shape[0], 1, dtype=weight_dtype, device=hidden_PH.device)
    return experts(hidden_PH, expert_P[:, None], ones_P1)


def weighted_sum(output_PH: Tensor, weight_TK: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over K of weight x output, `[T, H]` in `dtype`; the rows of `output_PH` are the pairs in token order.

    Product and sum are in the wider of the two dtypes, as transformers' own batched and grouped experts do.
    """
    tokens, top_k = weight_TK.shape
    weighted_TKH = output_PH.view(tokens, top_k, output_PH.shape[1]) * weight_TK[..., None]
    return weighted_TKH.sum(1).to(dtype)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in {**module._parameters, **module._buffers}.items() if tensor is not None}


def _select_parameter(parameter: nn.Parameter | None, experts_S: tuple[int, ...]) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(_select(parameter.detach(), experts_S), requires_grad=parameter.requires_grad)


def _select(tensor: Tensor, experts_S: tuple[int, ...]) -> Tensor:
    return tensor.index_select(0, torch.tensor(experts_S, dtype=torch.int64, device=tensor.device))
