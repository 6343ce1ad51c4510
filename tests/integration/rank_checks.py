"""Run on 8 ranks: the runtime on real gloo ranks, all checks in one start, because a start costs seconds.

Groups of 1, 2, 4 and 8 ranks are dimensions of device meshes over the same 8 processes. Every check compares this
rank's results with the original module run here alone; what is measured is written as JSON to the file in the first
argument.
Axes: T tokens, K experts per token, H hidden size, E experts, S slots.
"""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from craftc.deployment.prepare_model import prepare
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.plan_match import expert_bytes
from craftc.runtime.process_group import rank_process_group
from craftc.runtime.rank_group import RankGroup, rank_group
from craftc.runtime.replica_gradients import sum_replica_gradients
from craftc.runtime.replicated_experts import ReplicatedExperts, distributed_experts
from examples.plain_moe import model as plain_moe
from tests.integration.families import plan_for, replaceable_families
from tests.model_families import FAMILIES, example_inputs
from tests.runtime.layers import experts_of, routing
from tests.runtime.plans import plan_of, random_layer


def main(output: Path) -> None:
    with rank_process_group(timeout_s=60) as world:
        measured = {}
        for size in (1, 2, 4, 8):
            mesh = init_device_mesh("cpu", (world.size // size, size), mesh_dim_names=("dp", "ep"))["ep"]
            measured[size] = measure(mesh, rank_group(mesh))
        gathered: list[Any] = [None] * world.size
        dist.all_gather_object(gathered, measured)
        if world.rank == 0:
            output.write_text(json.dumps(gathered))


def measure(mesh: DeviceMesh, group: RankGroup) -> dict[str, Any]:
    check_odd_token_numbers(group)
    check_copies_of_the_module(group)
    check_contexts(group)
    check_local_first(group)
    if group.size == 2:
        check_module_lists(mesh, group)
    return {
        "families": {name: family_difference(name, mesh, group) for name in replaceable_families()},
        "bfloat16": bfloat16_difference(group),
        "gradients": gradient_difference(group),
        "tokens": executed_and_sent_tokens(group),
    }


def family_difference(name: str, mesh: DeviceMesh, group: RankGroup) -> float:
    """Largest |difference| of the logits, relative to the largest logit; every rank has other tokens."""
    model = FAMILIES[name].build()
    inputs = example_inputs(batch=1 + group.rank % 2, tokens=5 + group.rank, seed=group.rank)
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        got = prepare(model, plan_for(model, group.size), group=mesh)(**inputs, use_cache=False).logits
    return _relative(got, expected)


def bfloat16_difference(group: RankGroup) -> float:
    experts = experts_of("mixtral").bfloat16()
    hidden_TH, index_TK, weight_TK = routing(experts, tokens=30, seed=group.rank)
    args = (hidden_TH.bfloat16(), index_TK, weight_TK)
    with torch.no_grad():
        return _relative(distributed(experts, group)(*args), experts(*args))


def gradient_difference(group: RankGroup) -> dict[str, float]:
    """Gradients of this rank's tokens and weights, and of its copies, against those of all ranks' tokens together."""
    experts = experts_of("gpt_oss")
    replicated = distributed(experts, group)
    gradients: list[dict[str, Tensor | None]] = []
    for module in (experts, replicated):
        hidden_TH, index_TK, weight_TK = routing(experts, 0 if group.rank == 1 else 12 + group.rank, seed=group.rank)
        hidden_TH.requires_grad_()
        weight_TK.requires_grad_()
        output = module(hidden_TH, index_TK, weight_TK)
        (output * torch.linspace(-1, 1, output.shape[1])).sum().backward()
        gradients.append({"hidden": hidden_TH.grad, "weights": weight_TK.grad})
    sum_replica_gradients(replicated)
    own_E = torch.tensor(replicated.table.experts_of(group.rank))
    for name, parameter in experts.named_parameters():
        everyones = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        dist.all_reduce(everyones, group=group.process_group)
        gradients[0][name] = everyones[own_E]
        gradients[1][name] = getattr(replicated.experts, name).grad
    return {name: _relative(gradients[1][name], expected) for name, expected in gradients[0].items()}


def executed_and_sent_tokens(group: RankGroup) -> tuple[int, int]:
    """Tokens this rank executed, and tokens all ranks chose one of its slots for."""
    experts = experts_of("mixtral")
    replicated = distributed(experts, group)
    hidden_TH, index_TK, weight_TK = routing(experts, 20 * group.rank, seed=group.rank)
    replicated(hidden_TH, index_TK, weight_TK)
    sent_S = torch.bincount(replicated.choice(index_TK).reshape(-1), minlength=replicated.table.slots)
    dist.all_reduce(sent_S, group=group.process_group)
    own = replicated.dispatcher.counted_slots
    return replicated.tokens_per_gpu()[group.rank], int(sent_S[own.start : own.stop].sum())


def check_odd_token_numbers(group: RankGroup) -> None:
    """No token on some ranks, on all but one, on all; and one expert that gets everything."""
    experts = experts_of("mixtral")
    replicated = distributed(experts, group)
    last = group.size - 1
    for tokens in (0 if group.rank == 0 else 9, 7 if group.rank == last else 0, 0, 1):
        args = routing(experts, tokens)
        torch.testing.assert_close(replicated(*args), experts(*args), rtol=1e-5, atol=1e-5)
    hidden_TH, index_TK, weight_TK = routing(experts, 17, top_k=1)
    args = (hidden_TH, torch.full_like(index_TK, 3), weight_TK)
    torch.testing.assert_close(replicated(*args), experts(*args), rtol=1e-5, atol=1e-5)


def check_copies_of_the_module(group: RankGroup) -> None:
    """Deep copies keep the group; unpickled modules find the group of all ranks again."""
    experts = experts_of("mixtral")
    args = routing(experts, 6, seed=group.rank)
    replicated = distributed(experts, group)
    copies = [copy.deepcopy(replicated), replicated.to("cpu")]
    if group.size == dist.get_world_size():
        copies.append(pickle.loads(pickle.dumps(replicated)))
    for other in copies:
        torch.testing.assert_close(other(*args), experts(*args), rtol=1e-5, atol=1e-5)


def check_contexts(group: RankGroup) -> None:
    experts = experts_of("mixtral")
    args = routing(experts, 6, seed=group.rank)
    replicated = distributed(experts, group)
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            torch.testing.assert_close(replicated(*args), experts(*args), rtol=2**-6, atol=2**-6)


def check_local_first(group: RankGroup) -> None:
    """Where every expert is everywhere, no token needs to travel."""
    experts = experts_of("mixtral")
    layer = random_layer("x", 8, group.size, 8 * (group.size - 1))
    replicated = distributed_experts(experts, layer, group, "local-first")
    args = routing(experts, 5 + group.rank, seed=group.rank)
    torch.testing.assert_close(replicated(*args), experts(*args), rtol=1e-5, atol=1e-5)
    assert replicated.tokens_per_gpu() == {group.rank: args[1].numel()}


def check_module_lists(mesh: DeviceMesh, group: RankGroup) -> None:
    """Blocks with a loop over a ModuleList are traced and keep only this rank's expert modules."""
    model = plain_moe.build_model()
    inputs = next(iter(plain_moe.calibration_inputs()))
    size = expert_bytes(ModuleListExperts(model.get_submodule("blocks.1.mlp.experts").children()))
    layers = tuple(
        replace(random_layer(f"blocks.{block}.mlp.experts", 8, group.size, 3, seed=block), expert_bytes=size)
        for block in (1, 2, 3)
    )
    with torch.no_grad():
        expected = model(**inputs)
        prepare(model, plan_of(layers, group.size), group=mesh, inputs=inputs)
        torch.testing.assert_close(model(**inputs), expected, rtol=1e-5, atol=1e-5)
    for layer in layers:
        own: Any = model.get_submodule(f"{layer.name}.experts.experts")
        assert len(own) == len(layer.placement[group.rank])


def distributed(experts: nn.Module, group: RankGroup) -> ReplicatedExperts:
    replicas = 0 if group.size == 1 else 5
    return distributed_experts(experts, random_layer("x", 8, group.size, replicas, seed=1), group)


def _relative(got: Tensor | None, expected: Tensor | None) -> float:
    assert got is not None
    assert expected is not None
    assert got.shape == expected.shape
    if not expected.numel():
        return 0.0
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()
