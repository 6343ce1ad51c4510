"""A start for a search: copies dealt to GPUs in turn, heaviest first.

Axes: B a batch of problems, E experts, G GPUs, N slots, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

import numpy as np

from craftc.solvers.placement.copies import greedy_copies


def dealt_placements(load_BE: np.ndarray, replicas_B: np.ndarray, gpus: int) -> np.ndarray:
    """`expert_BGK` int32 with greedy copies for `load_BE`; slots of GPUs differ by at most one.

    An expert has at most one copy per GPU and its copies come one after the other, so no GPU gets two of them.
    """
    batch, experts = load_BE.shape
    copies_BE = greedy_copies(load_BE, replicas_B, gpus)
    order_BE = np.argsort(-load_BE / copies_BE, axis=1, kind="stable")
    copies_in_order = np.take_along_axis(copies_BE, order_BE, axis=1).ravel()
    slots_B = experts + np.asarray(replicas_B)
    most = -(-int(slots_B.max(initial=1)) // gpus)
    expert_BN = np.full((batch, most * gpus), -1, dtype=np.int32)
    expert_BN[np.arange(most * gpus) < slots_B[:, None]] = np.repeat(order_BE.ravel(), copies_in_order)
    return expert_BN.reshape(batch, most, gpus).transpose(0, 2, 1)
