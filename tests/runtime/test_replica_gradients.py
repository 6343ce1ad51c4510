"""Sums over several ranks are in tests/integration/test_ranks_runtime.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.replica_gradients import sum_replica_gradients
from craftc.runtime.replicated_experts import distributed_experts, virtual_experts
from tests.runtime.layers import experts_of, routing
from tests.runtime.plans import random_layer


def test_virtual_gpus_and_experts_without_replicas_keep_their_gradients(one_rank):
    layer = random_layer("x", 8, 1, 0)
    for module in (
        virtual_experts(experts_of("mixtral"), random_layer("x", 8, 2, 4)),
        distributed_experts(experts_of("mixtral"), layer, one_rank),
    ):
        module(*routing(module.experts, 5)).sum().backward()
        before = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
        sum_replica_gradients(nn.Sequential(module))
        after = [parameter.grad for parameter in module.parameters()]
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["fused", "module list"])
def test_only_copies_travel_and_missing_gradients_count_as_zero(one_rank, monkeypatch, kind):
    experts = experts_of("mixtral") if kind == "fused" else ModuleListExperts(nn.Linear(32, 32) for _ in range(8))
    module = distributed_experts(experts, random_layer("x", 8, 1, 0), one_rank)
    copied = (2,) * 3 + (1,) * 5  # as if another rank had copies of experts 0 to 2
    module.table = replace(module.table, copies_E=copied)
    sizes = []

    def doubling(total, group):
        sizes.append(len(total))
        total.mul_(2)

    module(*routing(experts, 9)).sum().backward()
    before = [
        parameter.grad.clone() if parameter.grad is not None else torch.zeros_like(parameter)
        for parameter in module.parameters()
    ]
    monkeypatch.setattr("torch.distributed.all_reduce", doubling)
    sum_replica_gradients(module)
    assert set(sizes) == {3}
    own = module.table.experts_of(one_rank.rank)
    factor = torch.tensor([2.0 if expert < 3 else 1.0 for expert in own])
    if kind == "fused":
        expected = [gradient * factor.view(-1, *[1] * (gradient.dim() - 1)) for gradient in before]
    else:
        expected = [gradient * factor[position // 2] for position, gradient in enumerate(before)]
    after = [
        parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for parameter in module.parameters()
    ]
    torch.testing.assert_close(after, expected)
