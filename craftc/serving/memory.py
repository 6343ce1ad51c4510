"""What is left of a GPU's memory for the KV cache, and how many requests that holds.

Every GPU keeps its part of the weights outside the experts, the experts of the plan, and a buffer for every
data-parallel rank; servers give all GPUs the same cache, so the GPU with the most bytes of experts decides.

Axes: L layers, G GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import Infeasible
from craftc.models.serving_shape import ServingShape
from craftc.serving.serving_model import ServingModel
from craftc.solvers.problem import Placement
from craftc.topology import Topology

GIB = 2**30
_MOST_GPUS = 4096
"""Most GPUs that are looked at for the fewest that work."""


@dataclass(frozen=True)
class KVCache:
    """KV cache of one GPU."""

    bytes_per_gpu: float
    """Memory for it; negative by what is missing."""
    request_bytes: float
    """What a whole request takes of it, above 0."""

    @property
    def requests(self) -> int:
        """Whole requests in flight on one data-parallel rank, at least 0."""
        return max(0, math.floor(self.bytes_per_gpu / self.request_bytes))


def kv_cache(server: ServingModel, topology: Topology, expert_bytes: float) -> KVCache:
    """The cache beside `expert_bytes` bytes of experts on the GPU that has most of them."""
    chip, settings = server.cluster.chip, server.cluster.server
    ranks = server.ranks(topology)
    used = (
        server.shape.dense_bytes / settings.tensor_parallel.value
        + expert_bytes
        + settings.buffer_gib_per_rank.value * GIB * ranks
    )
    room = settings.memory_fraction.value * chip.hbm_gib.value * GIB
    return KVCache(room - used, request_bytes(server))


def request_bytes(server: ServingModel) -> float:
    """Bytes that a request of the workload takes on each GPU of its rank, at its full length."""
    work = server.workload
    tokens = work.input if work.phase == "prefill" else work.input + work.output
    return cache_bytes(server.shape, server.tensor_parallel, tokens)


def cache_bytes(shape: ServingShape, tensor_parallel: int, tokens: float) -> float:
    """Bytes on one GPU of a request's cache of `tokens` tokens. Where a rank has more GPUs than there are heads to
    split, they hold the same."""
    whole = shape.kv_bytes_per_token * tokens
    whole += sum(window.bytes_per_token * min(tokens, window.tokens) for window in shape.windows)
    return whole / min(tensor_parallel, shape.kv_heads) + shape.state_bytes / tensor_parallel


def fullest_gpu_bytes(server: ServingModel, topology: Topology, placements: Sequence[Placement]) -> float:
    """Bytes of experts on the GPU that has most, in the layers of `placements` and those that have no loads."""
    layers = server.model.layers
    placed, rest = layers[len(layers) - len(placements) :], layers[: len(layers) - len(placements)]
    slots_LG = np.array([[len(gpu) for gpu in placement] for placement in placements])
    sizes_L = np.array([layer.expert_bytes for layer in placed], dtype=np.float64)
    unplanned = sum(-(-layer.experts // topology.gpus) * layer.expert_bytes for layer in rest)
    return float((sizes_L @ slots_LG).max()) + unplanned


def require_cache(server: ServingModel, topology: Topology, expert_bytes: float) -> KVCache:
    """The cache of a server without replicas. Raises Infeasible if it does not hold a single request on every rank,
    with what is missing and the fewest GPUs that are enough."""
    cache = kv_cache(server, topology, expert_bytes)
    if cache.requests >= 1:
        return cache
    missing = (cache.request_bytes - cache.bytes_per_gpu) / GIB
    work = server.workload
    raise Infeasible(
        f"no KV cache for a request of {work.input} + {work.output} tokens on {topology.gpus} GPUs of "
        f"{server.cluster.name}, even without replicas: {missing:.2f} GiB short per GPU; {_way_out(server, topology)}"
    )


def _way_out(server: ServingModel, topology: Topology) -> str:
    per_node = topology.gpus_per_node
    for nodes in range(topology.nodes + 1, _MOST_GPUS // per_node + 1):
        larger = Topology(nodes * per_node, nodes)
        if kv_cache(server, larger, even_bytes(server, larger)).requests >= 1:
            return f"the fewest GPUs that are enough are {larger.gpus} ({nodes} nodes)"
    return f"up to {_MOST_GPUS} such GPUs are not enough: choose larger ones, shorter requests or smaller weights"


def even_bytes(server: ServingModel, topology: Topology) -> float:
    """Bytes of experts on every GPU without replicas, spread evenly."""
    return sum(layer.experts * layer.expert_bytes for layer in server.model.layers) / topology.gpus
