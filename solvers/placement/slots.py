"""How many slots each GPU has in each layer, so that memory stays even over GPUs (CRAFT's slots across layers).

Axes: L layers, G GPUs, N nodes, B a batch of single layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from craftc.topology import Topology


def assign_slots(slots_L: Sequence[int], expert_bytes_L: Sequence[int], topology: Topology) -> np.ndarray:
    """`slots_LG` int64: floor(slots / G) on every GPU, the remainder on the GPUs with the fewest bytes so far.

    slots_L: copies of every layer (experts + replicas). Guarantees: within a layer GPUs differ by at most one slot;
    bytes over all layers differ by at most one (largest) expert, and not at all if all experts have the same size
    and the total is a multiple of G. Ties are spread over nodes, then over GPUs in turn.
    """
    gpus, nodes = topology.gpus, topology.nodes
    slots_LG = np.repeat(np.asarray(slots_L, dtype=np.int64)[:, None] // gpus, gpus, axis=1)
    node_G = np.asarray(topology.node_of_gpu_G)
    bytes_G = np.zeros(gpus, dtype=np.int64)
    turn = 0
    for layer, (slots, size) in enumerate(zip(slots_L, expert_bytes_L, strict=True)):
        remainder = slots % gpus
        if not remainder:
            continue
        limit = np.sort(bytes_G)[remainder - 1]
        certain = np.flatnonzero(bytes_G < limit)
        tied = np.flatnonzero(bytes_G == limit)
        tied = _spread_over_nodes(np.roll(tied, -turn), node_G, np.bincount(node_G[certain], minlength=nodes))
        chosen = np.concatenate([certain, tied[: remainder - len(certain)]])
        slots_LG[layer, chosen] += 1
        bytes_G[chosen] += size
        turn += 1
    return slots_LG


def layer_slots(slots_B: Sequence[int], topology: Topology) -> np.ndarray:
    """`slots_BG` of layers, each on its own: GPUs differ by at most one slot, the remainder is spread over nodes."""
    gpus = topology.gpus
    node_G = np.asarray(topology.node_of_gpu_G)
    order_G = _spread_over_nodes(np.arange(gpus), node_G, np.zeros(topology.nodes, dtype=np.int64))
    rank_G = np.empty(gpus, dtype=np.int64)
    rank_G[order_G] = np.arange(gpus)
    slots_B1 = np.asarray(slots_B, dtype=np.int64)[:, None]
    return slots_B1 // gpus + (rank_G < slots_B1 % gpus)


def _spread_over_nodes(gpus: np.ndarray, node_G: np.ndarray, taken_N: np.ndarray) -> np.ndarray:
    """`gpus` reordered so that every prefix, together with `taken_N`, is even over nodes."""
    node = node_G[gpus]
    by_node = np.argsort(node, kind="stable")
    starts = np.searchsorted(node[by_node], node[by_node], side="left")
    turn = np.empty(len(gpus), dtype=np.int64)
    turn[by_node] = np.arange(len(gpus)) - starts
    return gpus[np.argsort(turn + taken_N[node], kind="stable")]
