"""The servers that CRAFT was measured on (arXiv 2603.28768), with synthetic loads of the stated skew.

Names: D and K are DeepSeek-R1 and Kimi-K2 in bfloat16, the digit is the number of nodes of 8 A100-80GB with EFA. In
every layer experts follow the quantiles of a lognormal distribution; layers run from one stated skew (hottest expert /
mean) to the other. How many layers lie where is not published: they are spaced evenly in a power of the skew, which was
chosen so that CRAFT's placement without replicas is about as uneven as on a recording of DeepSeek-V3 (.57), and that
sync fits to about the value that it has on recorded loads. Steps differ by a lognormal factor per expert (0.15) and by
sampling.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from craftc.loads.load_profile import LoadProfile
from craftc.models.model_config import ModelConfig, parse_model_config
from craftc.topology import Topology

_STEP_NOISE = 0.15
PLANNED_STEPS = 8
JUDGED_STEPS = 16
SKEWS = {"less": (2.6, 10.5), "skewed": (2.5, 27.0)}
"""Hottest expert / mean of the most even and the most uneven layer (SERVING.md, section 2.2)."""
_SPACING = {"less": 1.0, "skewed": 0.25}
"""Power of the skew in which layers are spaced evenly."""
_DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "moe_intermediate_size": 2048,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
}
FP8 = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}
MODELS: dict[str, dict[str, Any]] = {
    "D": _DEEPSEEK,
    "K": {
        **_DEEPSEEK,
        "first_k_dense_replace": 1,
        "n_routed_experts": 384,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "vocab_size": 163840,
        "n_group": 1,
        "topk_group": 1,
    },
}
"""Configs of DeepSeek-V3 and Kimi-K2 in bfloat16 (huggingface.co: deepseek-ai/DeepSeek-V3, moonshotai/Kimi-K2-Base)."""


@dataclass(frozen=True, eq=False)
class ServingSet:
    """A model on some nodes, and its loads."""

    name: str
    """Such as D8."""
    skew: str
    """Key of `SKEWS`."""
    model: ModelConfig
    topology: Topology
    planned: LoadProfile
    judged: LoadProfile


def skewed_counts(layers: int, experts: int, skew: str, seed: int, tokens: int = 32768, top_k: int = 8) -> np.ndarray:
    """`counts_SLE` of steps to plan from and to judge on, in this order."""
    random = np.random.default_rng(seed)
    normal_E = ndtri((np.arange(experts) + 0.5) / experts)
    power, (lowest, highest) = _SPACING[skew], SKEWS[skew]
    hottest_L = np.linspace(lowest**power, highest**power, layers) ** (1 / power)
    random.shuffle(hottest_L)
    steps = PLANNED_STEPS + JUDGED_STEPS
    counts_SLE = np.empty((steps, layers, experts), dtype=np.int64)
    for layer, hottest in enumerate(hottest_L):
        spread = brentq(lambda trial, aim: _hottest(trial * normal_E) - aim, 1e-6, 6.0, args=(hottest,))
        popular_E = np.exp(spread * normal_E)
        random.shuffle(popular_E)
        share_SE = popular_E * np.exp(_STEP_NOISE * random.standard_normal((steps, experts)))
        counts_SLE[:, layer] = random.multinomial(tokens * top_k, share_SE / share_SE.sum(axis=1, keepdims=True))
    return counts_SLE


def skewed_loads(model: ModelConfig, skew: str, seed: int) -> tuple[LoadProfile, LoadProfile]:
    """Loads to plan from and to judge on."""
    counts_SLE = skewed_counts(len(model.layers), model.layers[0].experts, skew, seed)
    planned, judged = counts_SLE[:PLANNED_STEPS], counts_SLE[PLANNED_STEPS:]
    return LoadProfile.from_counts(planned), LoadProfile.from_counts(judged)


def serving_sets() -> Iterator[ServingSet]:
    """The eight sets: D8, K6, K8 and K12, less skewed and skewed."""
    for skew in SKEWS:
        for letter, nodes in (("D", 8), ("K", 6), ("K", 8), ("K", 12)):
            model = parse_model_config(MODELS[letter])
            planned, judged = skewed_loads(model, skew, seed=5 if letter == "D" else 7)
            yield ServingSet(f"{letter}{nodes}", skew, model, Topology(8 * nodes, nodes), planned, judged)


def _hottest(log_E: np.ndarray) -> float:
    return float(np.exp(log_E).max() / np.exp(log_E).mean())
