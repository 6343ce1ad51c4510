"""Training with replicas: all copies of an expert must get the same gradient, the sum over the tokens of all copies."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from craftc.runtime.c10d import C10dDispatcher
from craftc.runtime.exchange import rank_failures
from craftc.runtime.local_experts import is_parameter, stacked_layout
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.replicated_experts import ReplicatedExperts


def sum_replica_gradients(model: nn.Module) -> None:
    """Give all copies of an expert the sum of their gradients.

    Call it on every rank after `backward()` and before the optimizer's step, on the whole model or on one module.
    Only gradients of experts with replicas travel, in one all-reduce per parameter and layer. Virtual GPUs share their
    weights and need nothing. Gradients of everything outside the experts are left to the caller (DDP, FSDP). Raises
    RankFailed.
    """
    for module in model.modules():
        if isinstance(module, ReplicatedExperts) and isinstance(module.dispatcher, C10dDispatcher):
            _sum_in_layer(module, module.dispatcher)


def _sum_in_layer(module: ReplicatedExperts, dispatcher: C10dDispatcher) -> None:
    copied = [expert for expert, copies in enumerate(module.table.copies_E) if copies > 1]
    if not copied:
        return
    row_of = {expert: row for row, expert in enumerate(copied)}
    own = module.table.experts_of(dispatcher.group.rank)
    for gradients_C in _gradients(module.experts):
        total = gradients_C[0].new_zeros(len(copied), *gradients_C[0].shape)
        held = [(row_of[expert], grad) for expert, grad in zip(own, gradients_C, strict=True) if expert in row_of]
        for row, gradient in held:
            total[row].add_(gradient)
        with rank_failures(dispatcher.group, f"sum of gradients in layer {module.name}"):
            dist.all_reduce(total, group=dispatcher.group.process_group)
        for row, gradient in held:
            gradient.copy_(total[row])


def _gradients(experts: nn.Module) -> list[list[Tensor]]:
    """For every parameter, the gradients of the local experts in slot order; views that can be written to."""
    if isinstance(experts, ModuleListExperts):
        names = [name for name, _ in experts.experts[0].named_parameters()]
        return [[_gradient(expert.get_parameter(name)) for expert in experts.experts] for name in names]
    return [
        list(_gradient(experts.get_parameter(name)).unflatten(0, (-1, rows)))
        for name, rows in stacked_layout(experts).rows
        if is_parameter(experts, name)
    ]


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
