"""Rename GPUs so that the copies of an expert are on different nodes; renaming changes no load.

A node that fails then takes fewer experts with it, and tokens find a copy on their own node more often.

Axes: L layers, G GPUs, N nodes, K slots of a GPU (padded with -1), D experts with several copies.
"""

from __future__ import annotations

import numpy as np

from craftc.topology import Topology


def spread_over_nodes(expert_LGK: np.ndarray, topology: Topology) -> np.ndarray:
    """`expert_LGK` with GPUs renamed within each layer; every GPU keeps its number of slots.

    Swaps the contents of two GPUs until no swap leaves fewer pairs of copies of one expert on one node.
    """
    if topology.nodes == 1:
        return expert_LGK
    return np.stack([expert_GK[_spread(expert_GK, topology)] for expert_GK in expert_LGK])


def pairs_on_a_node(expert_GK: np.ndarray, topology: Topology) -> int:
    """Number of pairs of copies of one expert that are on one node, in one layer."""
    if not (expert_GK >= 0).any():
        return 0
    held_NY = expert_GK.reshape(topology.nodes, -1)
    copies = np.stack([np.bincount(held[held >= 0], minlength=int(expert_GK.max()) + 1) for held in held_NY])
    return int((copies * (copies - 1) // 2).sum())


def _spread(expert_GK: np.ndarray, topology: Topology) -> np.ndarray:
    """`from_G`: the GPU whose content each GPU takes."""
    gpus = len(expert_GK)
    from_G = np.arange(gpus)
    shared_GG = _shared_experts(expert_GK)
    if shared_GG is None:
        return from_G
    node_G = np.asarray(topology.node_of_gpu_G)
    slots_G = (expert_GK >= 0).sum(axis=1)
    # Contents move between the places 0..G-1; `shared_GG` stays in the order of contents.
    place_G = np.arange(gpus)
    near_GN = np.stack([shared_GG[:, node_G == node].sum(axis=1) for node in range(topology.nodes)], axis=1)
    settled_G = np.zeros(gpus, dtype=bool)
    while True:
        here_G = node_G[place_G]
        own_G = near_GN[np.arange(gpus), here_G]
        worst = int(np.where(settled_G, 0, own_G).argmax())
        if settled_G[worst] or not own_G[worst]:
            break
        change_G = near_GN[worst, here_G] + near_GN[:, here_G[worst]] - 2 * shared_GG[worst] - own_G[worst] - own_G
        change_G[(here_G == here_G[worst]) | (slots_G != slots_G[worst])] = 0
        partner = int(change_G.argmin())
        if change_G[partner] >= 0:
            settled_G[worst] = True
            continue
        difference_G = shared_GG[:, partner] - shared_GG[:, worst]
        near_GN[:, here_G[worst]] += difference_G
        near_GN[:, here_G[partner]] -= difference_G
        place_G[[worst, partner]] = place_G[[partner, worst]]
        settled_G[:] = False
    from_G[place_G] = np.arange(gpus)
    return from_G


def _shared_experts(expert_GK: np.ndarray) -> np.ndarray | None:
    """`shared_GG`: number of experts that two GPUs share, 0 on the diagonal; None if no expert has several copies."""
    gpu, slot = np.nonzero(expert_GK >= 0)
    expert = expert_GK[gpu, slot]
    several = np.flatnonzero(np.bincount(expert) > 1)
    if not several.size:
        return None
    kept = np.isin(expert, several)
    holds_GD = np.zeros((len(expert_GK), len(several)), dtype=np.float32)
    holds_GD[gpu[kept], np.searchsorted(several, expert[kept])] = 1
    shared_GG = holds_GD @ holds_GD.T
    np.fill_diagonal(shared_GG, 0)
    return shared_GG.astype(np.int64)
