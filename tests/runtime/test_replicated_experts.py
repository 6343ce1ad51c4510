"""One process. Axes: T tokens, K experts per token, S slots."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from craftc.runtime.copy_choice import copy_choice
from craftc.runtime.local_experts import local_experts
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.replicated_experts import ReplicatedExperts, distributed_experts, virtual_experts
from craftc.runtime.slot_table import slot_table
from craftc.runtime.virtual import InTurnDispatcher
from tests.model_families import COMMON
from tests.runtime.layers import experts_of, routing
from tests.runtime.plans import random_layer


def mixtral_experts() -> MixtralExperts:
    """Eight experts on the current device."""
    return MixtralExperts(MixtralConfig(**COMMON, num_local_experts=8))


def in_turn_experts(experts, layer) -> ReplicatedExperts:
    table = slot_table(layer)
    return ReplicatedExperts(experts, copy_choice(layer, 0), InTurnDispatcher(table), table, layer.name)


@pytest.fixture(params=[virtual_experts, in_turn_experts], ids=["virtual", "in turn"])
def build(request):
    return request.param


@pytest.mark.parametrize("gpus", [1, 3, 8])
@pytest.mark.parametrize("tokens", [0, 1, 23])
def test_outputs_and_gradients_are_the_originals(build, gpus, tokens):
    experts = experts_of("mixtral")
    replicated = build(copy.deepcopy(experts), random_layer("x", 8, gpus, 0 if gpus == 1 else 5))
    hidden_TH, index_TK, weight_TK = routing(experts, tokens)
    results = []
    for module in (experts, replicated):
        hidden, weight = hidden_TH.clone().requires_grad_(), weight_TK.clone().requires_grad_()
        output = module(hidden, index_TK, weight)
        (output * torch.arange(hidden.shape[1])).sum().backward()
        parameters = module.parameters() if build is virtual_experts else ()
        results.append([output, hidden.grad, weight.grad, *(parameter.grad for parameter in parameters)])
    for expected, got in zip(*results, strict=False):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


def test_tokens_are_counted_where_they_run(build):
    experts = experts_of("mixtral")
    layer = random_layer("x", 8, 4, 6, seed=2)
    replicated = build(experts, layer)
    _, index_TK, weight_TK = routing(experts, 40)
    hidden_TH = torch.zeros(40, 32)
    for _ in range(2):
        replicated(hidden_TH, index_TK, weight_TK)
    slot_TK = replicated.choice(index_TK)
    expected_S = 2 * torch.bincount(slot_TK.reshape(-1), minlength=14)
    assert torch.equal(replicated.tokens_C, expected_S)
    gpu_TK = torch.tensor(replicated.table.gpu_S)[slot_TK]
    assert replicated.tokens_per_gpu() == dict(
        enumerate((2 * torch.bincount(gpu_TK.reshape(-1), minlength=4)).tolist())
    )
    replicated.reset_counters()
    assert sum(replicated.tokens_per_gpu().values()) == 0


def test_shares_of_the_plan_reach_the_gpus(build):
    experts = experts_of("mixtral")
    layer = random_layer("x", 8, 2, 8)
    shares = tuple(tuple(0.75 if gpu == 0 else 0.25 for _ in held) for gpu, held in enumerate(layer.placement))
    replicated = build(experts, replace(layer, shares=shares))
    index_TK = torch.arange(8).repeat(16).reshape(-1, 2)
    replicated(torch.zeros(64, 32), index_TK, torch.ones(64, 2))
    assert replicated.tokens_per_gpu() == {0: 96, 1: 32}


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_every_experts_implementation_works(build, implementation):
    experts = experts_of("mixtral")
    experts.config._experts_implementation = implementation
    replicated = build(experts, random_layer("x", 8, 3, 4))
    args = routing(experts, 9)
    torch.testing.assert_close(replicated(*args), experts(*args), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_bit_equal_to_the_grouped_experts(build):
    experts = experts_of("mixtral").to(torch.bfloat16)
    replicated = build(experts, random_layer("x", 8, 3, 4))
    hidden_TH, index_TK, weight_TK = routing(experts, 64)
    args = (hidden_TH.bfloat16(), index_TK, weight_TK)
    torch.testing.assert_close(replicated(*args), experts(*args), rtol=2**-8, atol=2**-9)


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_contexts(build, context):
    experts = experts_of("mixtral")
    replicated = build(experts, random_layer("x", 8, 3, 4))
    args = routing(experts, 9)
    with context():
        torch.testing.assert_close(replicated(*args), experts(*args), rtol=2**-7, atol=2**-7)


def test_pickles_and_moves(build):
    experts = experts_of("mixtral")
    replicated = build(experts, random_layer("x", 8, 3, 4))
    args = routing(experts, 9)
    again = pickle.loads(pickle.dumps(replicated))
    torch.testing.assert_close(again(*args), replicated(*args), rtol=0, atol=0)
    moved = copy.deepcopy(replicated).to("meta")
    assert moved.tokens_C.is_meta
    assert all(buffer.is_meta for buffer in moved.buffers())
    assert "x: 8 experts in 12 slots on 3 GPUs" in repr(replicated)


def test_state_dict_holds_the_weights_only(build):
    experts = experts_of("mixtral")
    replicated = build(experts, random_layer("x", 8, 3, 4))
    assert set(replicated.state_dict()) == {f"experts.{name}" for name in experts.state_dict()}


def test_virtual_gpus_share_the_weights():
    experts = experts_of("mixtral")
    assert virtual_experts(experts, random_layer("x", 8, 3, 4)).experts is experts


def test_in_turn_uses_only_a_gpus_own_copies(monkeypatch):
    experts = experts_of("mixtral")
    layer = random_layer("x", 8, 3, 4)
    asked = []

    def recording(module, experts_S):
        asked.append(experts_S)
        return local_experts(module, experts_S)

    monkeypatch.setattr("craftc.runtime.virtual.local_experts", recording)
    in_turn_experts(experts, layer)(*routing(experts, 60))
    assert asked == list(layer.placement)


@pytest.mark.parametrize("shares", [False, True], ids=["even", "shares"])
@pytest.mark.parametrize("replicas", [0, 5])
def test_experts_on_a_gpu_get_their_tables_there(replicas, shares):
    """No GPU is needed: fake tensors have a device, too."""
    layer = random_layer("x", 8, 4, replicas)
    if shares:
        copies_E = slot_table(layer).copies_E
        layer = replace(layer, shares=tuple(tuple(1 / copies_E[expert] for expert in gpu) for gpu in layer.placement))
    with FakeTensorMode(), torch.device("cuda"):
        replicated = virtual_experts(mixtral_experts(), layer)
    assert {tensor.device.type for tensor in replicated.buffers()} == {"cuda"}


def test_ranks_on_a_gpu_get_their_tables_there(one_rank):
    with FakeTensorMode(), torch.device("cuda"):
        replicated = distributed_experts(mixtral_experts(), random_layer("x", 8, 1, 0), one_rank)
    assert {tensor.device.type for tensor in replicated.buffers()} == {"cuda"}


def test_weights_in_buffers_have_a_device_too():
    with FakeTensorMode(), torch.device("cuda"):
        experts = torch.nn.Module()
        experts.register_buffer("weight", torch.zeros(8, 4, 4, dtype=torch.int8))
        replicated = virtual_experts(experts, random_layer("x", 8, 4, 5))
    assert {tensor.device.type for tensor in replicated.buffers()} == {"cuda"}


def test_a_list_of_experts_on_a_gpu_gets_its_tables_there():
    with FakeTensorMode(), torch.device("cuda"):
        modules = [torch.nn.ParameterList([torch.empty(4, 4)]) for _ in range(8)]
        experts = ModuleListExperts(modules)
        replicated = virtual_experts(experts, random_layer("x", 8, 4, 5))
    assert {tensor.device.type for tensor in replicated.buffers()} == {"cuda"}


def test_experts_without_weights_have_their_tables_on_the_cpu():
    with torch.device("meta"):
        experts = mixtral_experts()
    assert {tensor.device.type for tensor in virtual_experts(experts, random_layer("x", 8, 4, 5)).buffers()} == {"cpu"}
