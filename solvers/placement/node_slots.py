"""Slots of GPUs if every node has its own experts: replicas for nodes that want them, memory even over GPUs.

Axes: L layers, E experts, N nodes, G GPUs, X experts of a node.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from craftc.errors import Infeasible
from craftc.solvers.placement.slots import assign_slots
from craftc.topology import Topology


def wanted_extras(copies_NX: np.ndarray, topology: Topology) -> np.ndarray:
    """`extra_N`: number of GPUs per node with one slot above the minimum, to come close to the copies wanted.

    copies_NX: copies that every expert would get if nodes did not matter. Every node gets room for its experts once.
    """
    gpus, per_node = topology.gpus, topology.gpus_per_node
    fewest, extras = divmod(int(copies_NX.sum()), gpus)
    least = max(0, copies_NX.shape[1] - fewest * per_node)
    lack_N = copies_NX.sum(axis=1) - fewest * per_node
    extra_N = np.clip(lack_N, least, per_node)
    while (missing := extras - int(extra_N.sum())) != 0:
        # One at a time to the node that lacks most, or from the one that lacks least.
        open_N = extra_N < per_node if missing > 0 else extra_N > least
        need_N = np.where(open_N, (lack_N - extra_N) * np.sign(missing), np.iinfo(np.int64).min)
        extra_N[int(need_N.argmax())] += int(np.sign(missing))
    return extra_N


def assign_node_slots(
    fewest_L: Sequence[int],
    extra_LN: np.ndarray,
    least_L: Sequence[int],
    expert_bytes_L: Sequence[int],
    topology: Topology,
) -> tuple[np.ndarray, np.ndarray]:
    """`slots_LG`, and `content_LN`: which of a layer's contents (entries of `extra_LN`) each node gets.

    fewest_L: slots that every GPU has at least; extra_LN: further slots that each content wants; least_L: further slots
    that each content needs. Memory is as even as with `assign_slots`. If all experts have one size, a node gets large
    wishes of some layers and small ones of others, and nearly all are granted; else further slots are spread evenly
    over nodes. Raises Infeasible if that leaves a node without room for its experts (never if the number of GPUs
    divides the experts).
    """
    if len(set(expert_bytes_L)) > 1:
        return _evenly_spread(fewest_L, extra_LN, least_L, expert_bytes_L, topology)
    content_LN = np.empty_like(extra_LN)
    total_N = np.zeros(topology.nodes, dtype=np.int64)
    for layer, extra_N in enumerate(extra_LN):
        content_LN[layer, np.argsort(total_N, kind="stable")] = np.argsort(-extra_N, kind="stable")
        total_N += extra_N[content_LN[layer]]
    given_LN = np.take_along_axis(extra_LN, content_LN, axis=1)
    _even_totals(given_LN, np.asarray(least_L), topology)
    slots_LG = np.repeat(np.asarray(fewest_L, dtype=np.int64)[:, None], topology.gpus, axis=1)
    further_NG = np.zeros((topology.nodes, topology.gpus_per_node), dtype=np.int64)
    for layer, given_N in enumerate(given_LN):
        # On a node, GPUs with the fewest further slots come first, so they never differ by more than one.
        rank_NG = np.argsort(np.argsort(further_NG, axis=1, kind="stable"), axis=1, kind="stable")
        chosen_NG = rank_NG < given_N[:, None]
        further_NG += chosen_NG
        slots_LG[layer] += chosen_NG.ravel()
    return slots_LG, content_LN


def _even_totals(given_LN: np.ndarray, least_L: np.ndarray, topology: Topology) -> None:
    """Move further slots between nodes until GPUs can differ by at most one over all layers; changes `given_LN`."""
    per_node = topology.gpus_per_node
    share, rest = divmod(int(given_LN.sum()), topology.gpus)
    while True:
        total_N = given_LN.sum(axis=0)
        most, fewest = int(total_N.argmax()), int(total_N.argmin())
        if total_N[most] <= (share + (rest > 0)) * per_node and total_N[fewest] >= share * per_node:
            return
        movable_L = (given_LN[:, most] > least_L) & (given_LN[:, fewest] < per_node)
        gap_L = np.where(movable_L, given_LN[:, most] - given_LN[:, fewest], -per_node - 1)
        layer = int(gap_L.argmax())
        given_LN[layer, most] -= 1
        given_LN[layer, fewest] += 1


def _evenly_spread(
    fewest_L: Sequence[int],
    extra_LN: np.ndarray,
    least_L: Sequence[int],
    expert_bytes_L: Sequence[int],
    topology: Topology,
) -> tuple[np.ndarray, np.ndarray]:
    """Spread further slots evenly over nodes; nodes with more of them get the contents that want more."""
    slots_L = [fewest * topology.gpus + int(extra_N.sum()) for fewest, extra_N in zip(fewest_L, extra_LN, strict=True)]
    slots_LG = assign_slots(slots_L, expert_bytes_L, topology)
    short_LN = (slots_LG - np.asarray(fewest_L)[:, None]).reshape(len(slots_LG), topology.nodes, -1).sum(axis=2)
    if (short_LN < np.asarray(least_L)[:, None]).any():
        raise Infeasible(
            f"expert groups: with experts of different sizes memory cannot be even over {topology.gpus} GPUs while "
            f"every node holds its experts; plan for a number of GPUs that divides the experts, or without groups"
        )
    held_LN = slots_LG.reshape(len(slots_LG), topology.nodes, -1).sum(axis=2)
    content_LN = np.empty_like(extra_LN)
    np.put_along_axis(
        content_LN,
        np.argsort(-held_LN, axis=1, kind="stable"),
        np.argsort(-extra_LN, axis=1, kind="stable"),
        axis=1,
    )
    return slots_LG, content_LN
