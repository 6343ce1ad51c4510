"""The model of the runtime's benchmarks: a Mixtral of 8 layers with random weights and a router that has favourites.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from craftc.api import plan, profile
from craftc.moe_layer import MoELayer
from craftc.passes.tracing_experts import find_experts
from craftc.plan import ReplicationPlan, layer_plan
from craftc.runtime.plan_match import expert_bytes
from craftc.runtime.slot_table import contiguous_placement
from craftc.topology import Topology

LAYERS, EXPERTS, TOP_K, HIDDEN, INTERMEDIATE, VOCABULARY = 8, 32, 2, 256, 512, 512
PREFILL, DECODE, MANY_SEQUENCES = (2, 256), (64, 1), (16, 32)
"""Sequences x tokens of a forward. With random weights a sequence keeps to few experts: many average out."""
SHARED = 0.3
"""Length of the direction that all token embeddings share; their own parts have length 0.3."""
BUDGET = "25%"
CALIBRATION, CALIBRATION_BATCHES = (64, 32), 24


def build_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same weights every time. All tokens share a direction, so that routers have favourites: the hottest of 32
    experts gets about 14 times the mean."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        max_position_embeddings=1024,
    )
    model = MixtralForCausalLM(config)
    with torch.no_grad():
        shared_H = torch.randn(HIDDEN)
        shared_H /= shared_H.norm()
        model.model.embed_tokens.weight.add_(SHARED * shared_H)
    return model.to(dtype).eval()


def example_inputs() -> dict[str, Tensor]:
    """For `craftc.load`, which takes this file as a model file."""
    return {"input_ids": random_tokens((1, 8), seed=0)}


def random_tokens(shape: tuple[int, int], seed: int) -> Tensor:
    """Token ids `[batch, sequence]`."""
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def skewed_plan(model: nn.Module, gpus: int) -> ReplicationPlan:
    """craftc's plan for `model` from loads on its own calibration batches (seeds 100 and up)."""
    batches = [{"input_ids": random_tokens(CALIBRATION, 100 + number)} for number in range(CALIBRATION_BATCHES)]
    loads = profile(model, batches[0], batches)
    return plan(loads, Topology(gpus), BUDGET, layers=moe_layers(model))


def plain_plan(model: nn.Module, gpus: int) -> ReplicationPlan:
    """Experts in order, no replicas: what expert parallelism does without a plan."""
    planned = skewed_plan(model, gpus)
    placement = contiguous_placement(EXPERTS, gpus)
    layers = tuple(layer_plan(layer, placement) for layer in moe_layers(model))
    return replace(planned, layers=layers, estimate=None)


def moe_layers(model: nn.Module) -> tuple[MoELayer, ...]:
    """The model's MoE layers, without tracing it."""
    found, _ = find_experts(model)
    return tuple(
        MoELayer(one.path, index, one.experts, expert_bytes(model.get_submodule(one.path)), TOP_K)
        for index, one in enumerate(found)
    )
