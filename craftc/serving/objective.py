"""What to plan for, so that a plan is worth most on a server: step time, with the slots that decode waits for."""

from __future__ import annotations

import numpy as np

from craftc.loads.load_profile import LoadProfile
from craftc.serving.memory import even_bytes, kv_cache
from craftc.serving.serving_model import ServingModel
from craftc.topology import Topology


def tokens_per_slot(server: ServingModel, loads: LoadProfile, topology: Topology) -> float:
    """Tokens of `loads` that take a GPU as long as reading the weights of one expert.

    A step of the loads and a step of the server route different numbers of tokens: the time of a slot is stated in
    tokens of the loads, so that it counts as much beside them as it does on the server. Where ranks prefill, steps that
    do so take nearly all of the time, so they decide.
    """
    chip, shape, work = server.cluster.chip, server.shape, server.workload
    ranks = server.ranks(topology)
    flops_per_s = server.peak_flops(shape.expert_dtype) * chip.expert_efficiency.value
    bytes_per_s = chip.hbm_tb_per_s.value * 1e12 * chip.streaming_efficiency.value
    sizes_L = np.array([layer.expert_bytes for layer in server.model.layers])
    slot_tokens = float(np.mean(sizes_L / bytes_per_s * flops_per_s / (2 * np.array(shape.expert_parameters))))
    if work.phase == "decode":
        held = kv_cache(server, topology, even_bytes(server, topology)).requests
        served = 1.0 * ranks * (held if work.batch is None else min(held, work.batch * server.tensor_parallel))
    else:
        served = ranks * work.chunk_tokens
    recorded_pairs = loads.counts_SLE.sum() / (loads.steps * loads.layers)
    return slot_tokens * recorded_pairs / (max(1, served) * float(np.mean(server.top_k_L)))
