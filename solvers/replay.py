"""Replay loads against placements: what every GPU would have had to do in every step.

Axes: S steps, L layers, E experts, G GPUs, B a batch of placements, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from craftc.solvers.problem import Placement, Shares

_MAX_CELLS = 4_000_000
"""Most cells of a temporary array: bounds the memory of a replay for any number of steps."""


def placement_array(placements: Sequence[Placement]) -> np.ndarray:
    """`expert_BGK` int32: the expert in every slot, -1 where a GPU has fewer slots than the fullest one."""
    held = list(itertools.chain.from_iterable(placements))
    slots_N = np.fromiter(map(len, held), dtype=np.int64, count=len(held))
    filled_NK = np.arange(slots_N.max(initial=0)) < slots_N[:, None]
    expert_NK = np.full(filled_NK.shape, -1, dtype=np.int32)
    expert_NK[filled_NK] = np.fromiter(itertools.chain.from_iterable(held), dtype=np.int32, count=int(slots_N.sum()))
    return expert_NK.reshape(len(placements), len(placements[0]), -1)


def placements_of(expert_BGK: np.ndarray) -> tuple[Placement, ...]:
    """The placements of a padded array, the inverse of `placement_array`."""
    return tuple(
        tuple(tuple(gpu) if -1 not in gpu else tuple(expert for expert in gpu if expert >= 0) for gpu in placement)
        for placement in expert_BGK.tolist()
    )


def given_shares(placement: Placement, shares: Shares, experts: int) -> np.ndarray:
    """`share_EG`: part of an expert's tokens that each GPU gets under a plan's own shares."""
    share_EG = np.zeros((experts, len(placement)))
    for gpu, (held, parts) in enumerate(zip(placement, shares, strict=True)):
        for expert, part in zip(held, parts, strict=True):
            share_EG[expert, gpu] += part
    return share_EG


def gpu_loads(counts_SE: np.ndarray, placement: Placement, shares: Shares | None = None) -> np.ndarray:
    """`gpu_load_SG`: tokens of one layer on every GPU in every step; copies share evenly unless `shares` are given."""
    experts = counts_SE.shape[1]
    if shares is not None:
        return counts_SE.astype(np.float64) @ given_shares(placement, shares, experts)
    gpu_load_SG: np.ndarray = (
        _even_shares(placement_array([placement]), experts, np.zeros(1, dtype=int), 1) @ counts_SE.T.astype(np.float64)
    ).T
    return gpu_load_SG


def step_balancedness(gpu_load_XG: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean / max over the axis of GPUs, in 0..1; 1 if nothing was routed, since then no GPU waits."""
    peak_X = gpu_load_XG.max(axis=axis)
    mean_X = gpu_load_XG.mean(axis=axis)
    return np.minimum(np.divide(mean_X, peak_X, out=np.ones_like(mean_X), where=peak_X > 0), 1.0)


def replay(
    counts_SLE: np.ndarray, placements: Sequence[Placement], shares_L: Sequence[Shares | None] | None = None
) -> np.ndarray:
    """`balancedness_SL`, in 0..1: its mean over steps is a layer's balancedness, its mean over both axes the model's.

    counts_SLE: tokens `[S, L, E]`; placements: one per layer; shares_L: shares of every layer; None, for all layers or
    for one, means even shares.
    """
    balancedness_SL = replay_steps(counts_SLE, np.arange(len(placements)), placement_array(placements))
    for layer, shares in enumerate(shares_L or ()):
        if shares is not None:
            gpu_load_SG = gpu_loads(counts_SLE[:, layer], placements[layer], shares)
            balancedness_SL[:, layer] = step_balancedness(gpu_load_SG)
    return balancedness_SL


def replay_batch(counts_SLE: np.ndarray, layer_B: np.ndarray, expert_BGK: np.ndarray) -> np.ndarray:
    """`balancedness_B`: mean over steps of `replay_steps`."""
    balancedness_B: np.ndarray = replay_steps(counts_SLE, layer_B, expert_BGK).mean(axis=0)
    return balancedness_B


def replay_steps(counts_SLE: np.ndarray, layer_B: np.ndarray, expert_BGK: np.ndarray) -> np.ndarray:
    """`balancedness_SB` of every step, for many placements at once (such as all candidates of all layers).

    layer_B: the layer whose loads each placement is for; copies share evenly.
    """
    batch, gpus, _ = expert_BGK.shape
    steps, layers, experts = counts_SLE.shape
    balancedness_SB = np.empty((steps, batch))
    steps_at_once = max(1, _MAX_CELLS // max(layers * experts, gpus))
    for first in range(0, steps, steps_at_once):
        some = slice(first, first + steps_at_once)
        # One column per step: a sparse product then runs through memory in order.
        counts_XS = counts_SLE[some].reshape(-1, layers * experts).T.astype(np.float64, order="C")
        batch_at_once = max(1, _MAX_CELLS // (counts_XS.shape[1] * gpus))
        for start in range(0, batch, batch_at_once):
            chunk = slice(start, start + batch_at_once)
            load_XS = _even_shares(expert_BGK[chunk], experts, layer_B[chunk], layers) @ counts_XS
            balancedness_SB[some, chunk] = step_balancedness(load_XS.reshape(-1, gpus, load_XS.shape[1]), axis=1).T
    return balancedness_SB


def _even_shares(expert_BGK: np.ndarray, experts: int, layer_B: np.ndarray, layers: int) -> csr_array:
    """`[B * G, L * E]`: part of the tokens of every layer's experts that each GPU of each placement gets, if copies
    share evenly."""
    batch, gpus, slots = expert_BGK.shape
    filled = expert_BGK >= 0
    expert = expert_BGK[filled]
    row = np.repeat(np.arange(batch), filled.reshape(batch, -1).sum(axis=1))
    copies_BE = np.bincount(row * experts + expert, minlength=batch * experts)
    end = np.cumsum(filled.reshape(-1, slots).sum(axis=1))
    column = layer_B[row] * experts + expert
    parts = (1.0 / copies_BE[row * experts + expert], column, np.concatenate([[0], end]))
    return csr_array(parts, shape=(batch * gpus, layers * experts))
