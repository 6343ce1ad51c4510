"""Some of the experts of an experts module, run by the module's own code.

Axes: E logical experts, S slots, T tokens, K experts per token, P = T x K (token, expert) pairs, H hidden size.
"""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from craftc.errors import Unsupported
from craftc.runtime.expert_layout import ExpertLayout, count_names, expert_layout

_ZERO_EXPERT = "first_zero_expert"
"""Attribute of local experts: an id that returns its tokens as they are."""


@runtime_checkable
class SelectsExperts(Protocol):
    """An experts module that can make a module of some of its experts (experts kept as separate modules)."""

    def select_experts(self, experts_S: tuple[int, ...]) -> nn.Module:
        """A module with the same forward whose expert s is this module's expert `experts_S[s]`."""


def local_experts(experts: nn.Module, experts_S: tuple[int, ...]) -> nn.Module:
    """A module with the same class and forward whose expert s is `experts`'s expert `experts_S[s]`.

    Stacked layouts (`expert_layout`): a shallow copy with the experts' rows selected and the number of experts set to
    S; anything else, other sub-modules included, is shared with `experts`. Works on the meta device.
    Raises Unsupported if the experts' tensors have no such layout.
    """
    if isinstance(experts, SelectsExperts):
        return experts.select_experts(experts_S)
    layout = stacked_layout(experts)
    local = _with_count(experts, layout, len(experts_S))
    for path in dict.fromkeys(name.rpartition(".")[0] for name, _ in layout.rows):
        if path:
            local.set_submodule(path, _with_count(experts.get_submodule(path), layout, len(experts_S)))
    for name, rows in layout.rows:
        owner, leaf = local.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if leaf in owner._parameters:
            owner._parameters[leaf] = _select_parameter(owner._parameters[leaf], experts_S, rows)
        else:
            owner._buffers[leaf] = _select(owner.get_buffer(leaf), experts_S, rows)
    if layout.zero_experts:
        vars(local)[_ZERO_EXPERT] = len(experts_S)
    return local


def zero_experts(experts: nn.Module) -> int:
    """Number of ids from E on whose tokens the module returns as they are, times their weight."""
    layout = None if isinstance(experts, SelectsExperts) else expert_layout(experts)
    return layout.zero_experts if isinstance(layout, ExpertLayout) else 0


def expert_count(experts: nn.Module) -> int:
    """Number of experts of a module that `local_experts` accepts."""
    return int(experts.num_experts) if isinstance(experts, SelectsExperts) else stacked_layout(experts).experts  # type: ignore[arg-type]


def expert_bytes(experts: nn.Module) -> int:
    """Bytes of one expert's parameters; all experts of a layer have the same size."""
    if isinstance(experts, SelectsExperts):
        return sum(map(_bytes, experts.parameters())) // expert_count(experts)
    layout = stacked_layout(experts)
    rows = ((experts.get_parameter(name), rows) for name, rows in layout.rows if is_parameter(experts, name))
    return sum(_bytes(parameter) * rows // parameter.shape[0] for parameter, rows in rows)


def run_rows(experts: nn.Module, hidden_PH: Tensor, expert_P: Tensor, weight_dtype: torch.dtype) -> Tensor:
    """Run every row through one expert, unweighted, `[P, H]`: the experts ABI with one expert per token and weight 1.

    Weights are applied on the rank that tokens come from (`weighted_sum`), in full precision; they do not travel.
    """
    ones_P1 = torch.ones(expert_P.shape[0], 1, dtype=weight_dtype, device=hidden_PH.device)
    none = getattr(experts, _ZERO_EXPERT, None)
    if none is None:
        return experts(hidden_PH, expert_P[:, None], ones_P1).reshape(hidden_PH.shape)
    # A router that can choose zero experts chooses several: such code may need two columns (LongCat-Flash's does).
    pair_P2 = torch.stack((expert_P, torch.full_like(expert_P, none)), dim=1)
    return experts(hidden_PH, pair_P2, torch.cat((ones_P1, torch.zeros_like(ones_P1)), dim=1))


def weighted_sum(output_PH: Tensor, weight_TK: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over K of weight x output, `[T, H]` in `dtype`; the rows of `output_PH` are the pairs in token order.

    Product and sum are in the wider of the two dtypes, as transformers' own batched and grouped experts do.
    """
    tokens, top_k = weight_TK.shape
    weighted_TKH = output_PH.view(tokens, top_k, output_PH.shape[1]) * weight_TK[..., None]
    return weighted_TKH.sum(1).to(dtype)


def stacked_layout(experts: nn.Module, count: int | None = None) -> ExpertLayout:
    """The layout of a module that is no ModuleList of experts. Raises Unsupported if it has none.

    count: the number of experts of a module that does not say it itself, whose parameters all have it as first dim.
    """
    layout = expert_layout(experts)
    if isinstance(layout, str):
        stacked = dict(experts.named_parameters())
        if stacked and all(parameter.dim() and parameter.shape[0] == count for parameter in stacked.values()):
            return ExpertLayout(count or 0, tuple((name, 1) for name in stacked))
        raise Unsupported(f"{type(experts).__name__}: cannot select single experts: {layout}")
    return layout


def _with_count(module: nn.Module, layout: ExpertLayout, count: int) -> nn.Module:
    """A shallow copy whose attributes say `count` experts (and as many zero experts as before)."""
    local = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        vars(local)[table] = dict(vars(module)[table])
    extra = {0, layout.zero_experts}
    for spare in extra:
        vars(local).update(dict.fromkeys(count_names(module, layout.experts + spare), count + spare))
    return local


def is_parameter(module: nn.Module, name: str) -> bool:
    """Whether the tensor at `name` is a parameter, not a buffer."""
    owner, _, leaf = name.rpartition(".")
    return leaf in module.get_submodule(owner)._parameters


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _select_parameter(parameter: nn.Parameter | None, experts_S: tuple[int, ...], rows: int) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(_select(parameter.detach(), experts_S, rows), requires_grad=parameter.requires_grad)


def _select(tensor: Tensor, experts_S: tuple[int, ...], rows: int) -> Tensor:
    selected = [expert * rows + row for expert in experts_S for row in range(rows)]
    return tensor.index_select(0, torch.tensor(selected, dtype=torch.int64, device=tensor.device))
