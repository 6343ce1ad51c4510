from __future__ import annotations

import torch
from torch import nn

from craftc.backend.moe_call import MoECall, OwnExperts
from craftc.backend.planning import model_layers
from craftc.plans.replication_plan import layer_plan
from craftc.runtime.replicated_experts import virtual_experts
from tests.backend.tiny_moe import EXPERTS, HIDDEN, TOP_K, Experts, TinyMoE


def routed(tokens: int = 6):
    generator = torch.Generator().manual_seed(1)
    indices = torch.rand(tokens, EXPERTS, generator=generator).argsort(1)[:, :TOP_K]
    return torch.randn(tokens, HIDDEN, generator=generator), indices, torch.rand(tokens, TOP_K, generator=generator)


def tiny_call() -> tuple[Experts, MoECall]:
    model = TinyMoE()
    experts = model.get_submodule("layers.0.experts")
    assert isinstance(experts, Experts)
    return experts, MoECall(experts, model_layers(model)[0], None)


def test_without_a_plan_it_is_the_model():
    experts, call = tiny_call()
    assert torch.equal(call(*routed(), *experts.parameters()), experts(*routed()))


def test_it_keeps_no_weights():
    _, call = tiny_call()
    assert list(call.parameters()) == []


def test_replicated_it_computes_the_same_and_counts_by_gpu():
    experts, call = tiny_call()
    plan = layer_plan(call.layer, ((0, 1, 2), (3, 1)))
    call.replicate(virtual_experts(nn.Module(), plan), call.select)
    assert torch.allclose(call(*routed(), *experts.parameters()), experts(*routed()), atol=1e-6)
    assert call.replicated is not None
    assert sum(call.replicated.tokens_per_gpu().values()) == 6 * TOP_K


def test_own_experts_are_copied_once():
    weights = nn.Parameter(torch.arange(8.0).view(4, 2))
    select = OwnExperts((2, 0))
    with torch.no_grad():
        (first,) = select((weights,))
        assert torch.equal(first, weights[[2, 0]])
        assert select((weights,))[0] is first


def test_own_experts_follow_the_weights():
    weights = nn.Parameter(torch.arange(8.0).view(4, 2))
    select = OwnExperts((2, 0))
    with torch.no_grad():
        select((weights,))
        weights.mul_(2)
        assert torch.equal(select((weights,))[0], weights[[2, 0]])
        other = nn.Parameter(torch.ones(4, 2))
        assert torch.equal(select((other,))[0], other[[2, 0]])
        other.data = other.data.double()
        assert select((other,))[0].dtype == torch.float64


def test_gradients_of_own_experts_reach_the_weights():
    weights = nn.Parameter(torch.zeros(4, 2))
    (own,) = OwnExperts((2, 0, 2))((weights,))
    own.sum().backward()
    assert weights.grad is not None
    assert weights.grad[:, 0].tolist() == [1, 0, 2, 0]
