"""The model of the runtime's benchmarks: a Mixtral of 8 layers with random weights and a skewed router.

The router: a token's logit for the expert of popularity rank r = 1, 2, ... is -0.6 log r plus a part of its own with
the standard deviation of Gumbel's distribution (with Gumbel's own shape the choices would follow Zipf's law with
exponent 0.6; these parts are nearly normal). Measured: shares fall like Zipf's law with exponent 1.07, the hottest
expert gets 17% of the tokens. Experts are numbered by popularity, so that experts in order put the hottest quarter on
the first of 4 ranks: balancedness without a plan is 0.40 there, that of GLM-5.2 on 64 GPUs (0.40) and of gpt-oss-20b on
16 (0.40) on their recorded loads.

Axes: T tokens, E experts, H hidden size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from craftc.api import plan, profile
from craftc.models.moe_layer import MoELayer
from craftc.passes.analysis.tracing.experts import find_experts
from craftc.plans.replication_plan import ReplicationPlan, layer_plan
from craftc.runtime.plan_match import expert_bytes
from craftc.solvers.placement.slots import layer_slots
from craftc.solvers.planners.contiguous import contiguous_placement
from craftc.topology import Topology

LAYERS, EXPERTS, TOP_K, HIDDEN, INTERMEDIATE, VOCABULARY = 8, 32, 2, 256, 512, 512
PREFILL, DECODE, MANY_SEQUENCES = (2, 256), (64, 1), (16, 32)
"""Sequences x tokens of a forward. With random weights a sequence keeps to few experts: many average out."""
SHARED = 0.3
"""Length of the direction that all token embeddings share; their own parts have length 0.3. The routers' preferences
are along what tokens share."""
PREFERENCE = 0.6
GUMBEL_DEVIATION = math.pi / math.sqrt(6)
BUDGET = "25%"
CALIBRATION, CALIBRATION_BATCHES = (64, 32), 8


def build_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same weights every time."""
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
        if not model.lm_head.weight.is_meta:  # `craftc.load_model` builds the model without weights
            skew_routers(model)
    return model.to(dtype).eval()


def skew_routers(model: Any) -> None:
    """Give every router the preferences above, layer after layer on one batch, as each changes what the next sees."""
    hooks = [layer.mlp.gate.register_forward_pre_hook(_skew_router) for layer in model.model.layers]
    model.eval()(random_tokens(CALIBRATION, seed=99), use_cache=False)
    for hook in hooks:
        hook.remove()


def _skew_router(router: nn.Module, args: tuple[Tensor, ...]) -> None:
    hidden_TH = args[0].reshape(-1, HIDDEN)
    mean_H = hidden_TH.mean(0)
    toward_H = mean_H / mean_H.square().sum()
    weight_EH: Tensor = router.weight  # type: ignore[assignment]
    own_EH = weight_EH - torch.outer(weight_EH @ mean_H, toward_H)  # nothing along what tokens share
    own_EH *= GUMBEL_DEVIATION / (hidden_TH @ own_EH.T).std()
    preference_E = -PREFERENCE * torch.arange(1, EXPERTS + 1).log()
    weight_EH.copy_(own_EH + torch.outer(preference_E, toward_H))


def example_inputs() -> dict[str, Tensor]:
    """For `craftc.load_model`, which takes this file as a model file."""
    return {"input_ids": random_tokens((1, 8), seed=0)}


def random_tokens(shape: tuple[int, int], seed: int) -> Tensor:
    """Token ids `[batch, sequence]`."""
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def calibration_batches() -> list[dict[str, Tensor]]:
    """What plans are made from."""
    return [{"input_ids": random_tokens(CALIBRATION, 100 + number)} for number in range(CALIBRATION_BATCHES)]


def skewed_plan(model: nn.Module, gpus: int) -> ReplicationPlan:
    """craftc's plan for `model` from loads on its own calibration batches."""
    batches = calibration_batches()
    return plan(profile(model, batches[0], batches), Topology(gpus), BUDGET, layers=moe_layers(model))


def plain_plan(planned: ReplicationPlan, model: nn.Module) -> ReplicationPlan:
    """Experts in order, no replicas: what expert parallelism does without a plan."""
    placement = contiguous_placement(layer_slots([EXPERTS], planned.topology)[0])
    layers = tuple(layer_plan(layer, placement) for layer in moe_layers(model))
    return replace(planned, layers=layers, estimate=None)


def moe_layers(model: nn.Module) -> tuple[MoELayer, ...]:
    """The model's MoE layers, without tracing it."""
    found, _ = find_experts(model)
    return tuple(
        MoELayer(module.path, index, module.experts, expert_bytes(model.get_submodule(module.path)), TOP_K)
        for index, module in enumerate(found)
    )
