"""From an old placement of a layer to a new one: which weights move, and how to move few.

A *move* is a slot with an expert that its GPU did not hold before: the GPU must receive its weights. Reordering
the slots of one GPU moves nothing.

Axes: E experts, G GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from craftc.solvers.problem import Placement
from craftc.topology import Topology


def moves_per_gpu(old: Placement, new: Placement) -> tuple[int, ...]:
    """Number of experts that every GPU must receive, length G."""
    return tuple(len(set(after) - set(before)) for before, after in zip(old, new, strict=True))


def keep_positions(old: Placement, new: Placement) -> Placement:
    """`new` with the slots of every GPU ordered so that experts that stay keep their slot index.

    Only if a GPU has fewer slots than before does an expert from a removed slot take a free one. New experts take the
    free slots in the order in which `new` lists them.
    """
    return tuple(_keep_positions_of_gpu(before, after) for before, after in zip(old, new, strict=True))


def match_gpus(old: Placement, new: Placement, slots_G: Sequence[int]) -> Placement | None:
    """`new` with its GPUs renamed so that GPU g has `slots_G[g]` slots and as few experts as possible move.

    Renaming GPUs changes no load. Optimal, as an assignment problem. None if the GPUs of `new` do not have those
    numbers of slots in any order.
    """
    if sorted(map(len, new)) != sorted(slots_G):
        return None
    experts = 1 + max(expert for gpu in (*old, *new) for expert in gpu)
    stay_GG = held_experts(new, experts).astype(np.float32) @ held_experts(old, experts).T.astype(np.float32)
    fits_GG = np.array([len(gpu) for gpu in new])[:, None] == np.asarray(slots_G)[None, :]
    # A misfit costs more than all moves together, and an assignment without misfits exists.
    misfit = 1.0 + sum(slots_G)
    from_G, to_G = _cheapest_pairs(np.where(fits_GG, -stay_GG, misfit))
    renamed = dict(zip(to_G.tolist(), from_G.tolist(), strict=True))
    return tuple(new[renamed[gpu]] for gpu in range(len(new)))


def match_nodes(old: Placement, new: Placement, slots_G: Sequence[int], topology: Topology) -> Placement | None:
    """Like `match_gpus`, but renames whole nodes, and GPUs within them: what shares a node still does."""
    per_node = topology.gpus_per_node
    starts = range(0, topology.gpus, per_node)
    matched: dict[tuple[int, int], Placement] = {}
    # A node that does not fit costs more than all moves together.
    cost_NN = np.full((topology.nodes, topology.nodes), 1.0 + sum(slots_G))
    for source, start in enumerate(starts):
        for target, end in enumerate(starts):
            before, wanted = old[end : end + per_node], slots_G[end : end + per_node]
            renamed = match_gpus(before, new[start : start + per_node], wanted)
            if renamed is not None:
                matched[source, target] = renamed
                cost_NN[source, target] = sum(moves_per_gpu(before, renamed))
    source_N, target_N = _cheapest_pairs(cost_NN)
    pairs = sorted(zip(target_N.tolist(), source_N.tolist(), strict=True))
    if any((source, target) not in matched for target, source in pairs):
        return None
    return tuple(gpu for target, source in pairs for gpu in matched[source, target])


def _cheapest_pairs(cost_XY: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs with the least summed cost."""
    from scipy.optimize import linear_sum_assignment  # late: it takes as long as planning

    row_P, column_P = linear_sum_assignment(cost_XY)
    return row_P, column_P


def held_experts(placement: Placement, experts: int) -> np.ndarray:
    """`holds_GE` bool: whether a GPU holds a copy of an expert."""
    holds_GE = np.zeros((len(placement), experts), dtype=bool)
    for gpu, held in enumerate(placement):
        holds_GE[gpu, list(held)] = True
    return holds_GE


def fit_slots(old: Placement, slots_G: Sequence[int], load_E: np.ndarray) -> Placement:
    """`old` changed to `slots_G` slots with few moves: GPUs with too many slots drop replicas, the others add some.

    Drops the copy that leaves the least load per remaining copy; adds the expert with the largest load per copy, to the
    least loaded GPU first. Expects at least as many slots as experts, and no GPU with more slots than experts.
    """
    gpus = [list(held) for held in old]
    copies_E = np.bincount([expert for held in old for expert in held], minlength=len(load_E))
    for gpu, held in enumerate(gpus):
        while len(held) > slots_G[gpu]:
            _drop(held, copies_E, load_E)
    short = [gpu for gpu, held in enumerate(gpus) if len(held) < slots_G[gpu]]
    load_G = {gpu: float((load_E[gpus[gpu]] / copies_E[gpus[gpu]]).sum()) for gpu in short}
    for gpu in sorted(short, key=lambda gpu: load_G[gpu]):
        while len(gpus[gpu]) < slots_G[gpu]:
            _add(gpus[gpu], copies_E, load_E)
    for expert in np.flatnonzero(copies_E == 0).tolist():
        _replace(gpus, expert, copies_E, load_E)
    return tuple(map(tuple, gpus))


def _keep_positions_of_gpu(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    wanted = set(after)
    slots: list[int | None] = [None] * len(after)
    for position, expert in enumerate(before[: len(after)]):
        if expert in wanted:
            slots[position] = expert
    placed = set(slots)
    rest = iter([expert for expert in after if expert not in placed])
    return tuple(next(rest) if expert is None else expert for expert in slots)


def _drop(held: list[int], copies_E: np.ndarray, load_E: np.ndarray) -> None:
    """Drop a copy from a GPU: one of several if it has any, else of its least loaded expert, which then has none."""
    copies = copies_E[held]
    after = np.where(copies > 1, load_E[held] / np.maximum(copies - 1, 1), np.inf)
    slot = int(after.argmin()) if np.isfinite(after).any() else int(load_E[held].argmin())
    copies_E[held.pop(slot)] -= 1


def _add(held: list[int], copies_E: np.ndarray, load_E: np.ndarray) -> None:
    """Give a GPU an expert without a copy, if there is one, else the one with the largest load per copy."""
    worth_E = np.where(copies_E == 0, np.inf, load_E / np.maximum(copies_E, 1))
    worth_E[held] = -1.0
    expert = int(worth_E.argmax())
    held.append(expert)
    copies_E[expert] += 1


def _replace(gpus: list[list[int]], expert: int, copies_E: np.ndarray, load_E: np.ndarray) -> None:
    """Put an expert without a copy in place of the replica that is missed least."""
    after_E = np.where(copies_E > 1, load_E / np.maximum(copies_E - 1, 1), np.inf)
    victim = int(after_E.argmin())
    held = next(held for held in gpus if victim in held)
    held[held.index(victim)] = expert
    copies_E[victim] -= 1
    copies_E[expert] = 1
