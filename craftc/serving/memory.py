"""What is left of a GPU's memory for the KV cache, and how many requests that holds.

Every GPU keeps its part of the weights outside the experts, the experts of the plan, and a buffer for every
data-parallel rank; servers give all GPUs the same cache, so the GPU with the most bytes of experts decides.

Axes: L layers, G GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import Infeasible
from craftc.models.moe_layer import MoELayer
from craftc.models.serving_shape import ServingShape
from craftc.serving.serving_model import ServingModel
from craftc.solvers.placement.slots import assign_slots
from craftc.solvers.problem import MOST_GPUS, Placement
from craftc.topology import Topology

GIB = 2**30


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
    return float((sizes_L @ slots_LG).max()) + _unplanned_bytes(rest, topology)


def require_cache(server: ServingModel, topology: Topology, expert_bytes: float) -> KVCache:
    """The cache of a server without replicas. Raises Infeasible if it does not hold a single request on every rank,
    with what is missing and the fewest GPUs that are enough."""
    cache = kv_cache(server, topology, expert_bytes)
    if cache.requests >= 1:
        return cache
    missing = (cache.request_bytes - cache.bytes_per_gpu) / GIB
    work, gpus = server.workload, "1 GPU" if topology.gpus == 1 else f"{topology.gpus} GPUs"
    raise Infeasible(
        f"no KV cache for a request of {work.input} + {work.output} tokens on {gpus} of "
        f"{server.cluster.name}, even without replicas: {missing:.2f} GiB short per GPU; {_way_out(server, topology)}"
    )


def _way_out(server: ServingModel, topology: Topology) -> str:
    for other in _larger_and_larger(server):
        if kv_cache(server, other, even_bytes(server, other)).requests >= 1:
            nodes = "1 node" if other.nodes == 1 else f"{other.nodes} nodes"
            return f"the fewest GPUs that are enough are {other.gpus} ({nodes})"
    return "no number of such GPUs is enough: choose larger ones, shorter requests or smaller weights"


def _larger_and_larger(server: ServingModel) -> Iterator[Topology]:
    """What the cluster can be made up of: parts of a node, then whole nodes, as long as every GPU gets an expert."""
    per_node = int(server.cluster.node.gpus.value)
    most = min(MOST_GPUS, sum(layer.experts for layer in server.model.layers))
    for gpus in range(server.tensor_parallel, min(per_node, most) + 1, server.tensor_parallel):
        yield Topology(gpus)
    for nodes in range(2, most // per_node + 1):
        yield Topology(nodes * per_node, nodes)


def even_bytes(server: ServingModel, topology: Topology) -> float:
    """Bytes of experts on the GPU that has most, without replicas: memory is even but for what does not divide."""
    layers, hashed = server.model.layers, server.model.hash_layers
    experts_L, sizes_L = [layer.experts for layer in layers], [layer.expert_bytes for layer in layers]
    slots_LG = assign_slots(experts_L[hashed:], sizes_L[hashed:], topology)
    placed = float((np.array(sizes_L[hashed:], dtype=np.float64) @ slots_LG).max())
    return placed + _unplanned_bytes(layers[:hashed], topology)


def _unplanned_bytes(layers: Sequence[MoELayer], topology: Topology) -> int:
    """Bytes on the fullest GPU of layers that nobody plans: servers cut their experts into equal parts."""
    return sum(-(-layer.experts // topology.gpus) * layer.expert_bytes for layer in layers)
