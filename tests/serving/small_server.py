"""A small server: four MoE layers of 32 experts on two nodes of eight GPUs, with loads of a stated skew.

Axes: S steps, L layers, E experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from craftc.budget import parse_budget
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_config import ModelConfig, parse_model_config
from craftc.models.moe_layer import MoELayer
from craftc.passes.pipelines import planned
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.plans.replication_plan import ReplicationPlan
from craftc.serving.cluster import Cluster, Figure, WireCopies, read_cluster
from craftc.serving.serving_model import ServingModel
from craftc.serving.workload import Workload
from craftc.topology import Topology

LAYERS, EXPERTS, TOP_K = 4, 32, 4
EXPERT_BYTES = 3 * 2048 * 2048 * 2
"""Bytes of an expert: three matrices in bfloat16."""
TOPOLOGY = Topology(16, 2)
LATENT: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 2048,
    "num_hidden_layers": LAYERS + 1,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": TOP_K,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 2048,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
"""Latent attention: its cache is whole on every GPU."""
GROUPED: dict[str, Any] = {
    "model_type": "mixtral",
    "torch_dtype": "bfloat16",
    "hidden_size": 2048,
    "num_hidden_layers": LAYERS,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "intermediate_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 32000,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
"""Keys and values in four groups, which tensor parallelism splits."""
FIGURES = {"chip.hbm_gib": 1.25, "server.buffer_gib_per_rank": 0.05}
"""A GPU whose memory is as small as the model."""


def model_of(config: dict[str, Any] | None = None, **fields: Any) -> ModelConfig:
    """A model; `fields` replace fields of its config."""
    return parse_model_config({**(config or LATENT), **fields})


def cluster_of(name: str = "a100-80g-efa", wire: str | None = None, **figures: Any) -> Cluster:
    """A preset with small memory. `figures` by path, with __ for the dot; `wire` replaces the copies on the wire."""
    cluster = read_cluster(name)
    for path, value in {**FIGURES, **{key.replace("__", "."): value for key, value in figures.items()}}.items():
        cluster = cluster.with_figure(path, Figure(value, "a test"))
    if wire is None:
        return cluster
    return replace(cluster, network=replace(cluster.network, wire_copies=WireCopies(wire, "a test")))


def server_of(
    cluster: Cluster | None = None, model: ModelConfig | None = None, workload: Workload | None = None
) -> ServingModel:
    """The server, or one that differs from it."""
    return ServingModel(model or model_of(), cluster or cluster_of(), workload or Workload(1024, 128, chunk=1024))


def skewed_counts(
    skew: float, steps: int = 8, layers: int = LAYERS, experts: int = EXPERTS, seed: int = 0, tokens: int = 8192
) -> np.ndarray:
    """`counts_SLE`: popularity is lognormal with spread `skew`, and a little different in every step."""
    random = np.random.default_rng(seed)
    popular_LE = np.exp(skew * random.standard_normal((layers, experts)))
    share_SLE = popular_LE * np.exp(0.1 * random.standard_normal((steps, layers, experts)))
    counts_SLE: np.ndarray = random.multinomial(tokens * TOP_K, share_SLE / share_SLE.sum(axis=2, keepdims=True))
    return counts_SLE


def skewed_loads(skew: float = 1.0, **sizes: int) -> LoadProfile:
    """Loads of these counts, without names."""
    return LoadProfile.from_counts(skewed_counts(skew, **sizes))


def even_loads(steps: int = 4, layers: int = LAYERS, experts: int = EXPERTS) -> LoadProfile:
    """Loads with the same number of tokens for every expert."""
    return LoadProfile.from_counts(np.full((steps, layers, experts), 256))


def plan_of(
    budget: str, loads: LoadProfile, expert_bytes: int = EXPERT_BYTES, topology: Topology = TOPOLOGY, **options: Any
) -> ReplicationPlan:
    """A plan of CRAFT for the model's layers, with names as loads have them."""
    layers = tuple(MoELayer(f"layers.{n}", n, EXPERTS, expert_bytes, TOP_K) for n in range(LAYERS))
    request = PlanningRequest(topology, parse_budget(budget), PlanningOptions(planner="craft", **options))
    return planned(request, loads, layers).plan
