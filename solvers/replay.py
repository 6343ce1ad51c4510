"""Replay loads against placements: what every GPU would have had to do in every step.

Axes: S steps, L layers, E experts, G GPUs, B a batch of placements, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from craftc.solvers.problem import Placement, Shares

_MAX_CELLS = 4_000_000
"""Most cells of a temporary array: bounds the memory of a replay for any number of steps."""


def placement_array(placements: Sequence[Placement]) -> np.ndarray:
    """`expert_BGK` int32: the expert in every slot, -1 where a GPU has fewer slots than the fullest one."""
    slots = max((len(gpu) for placement in placements for gpu in placement), default=0)
    expert_BGK = np.full((len(placements), len(placements[0]), slots), -1, dtype=np.int32)
    for row, placement in enumerate(placements):
        for gpu, experts in enumerate(placement):
            expert_BGK[row, gpu, : len(experts)] = experts
    return expert_BGK


def placements_of(expert_BGK: np.ndarray) -> tuple[Placement, ...]:
    """The placements of a padded array, the inverse of `placement_array`."""
    return tuple(
        tuple(tuple(expert for expert in gpu if expert >= 0) for gpu in placement) for placement in expert_BGK.tolist()
    )


def even_shares(expert_BGK: np.ndarray, experts: int) -> np.ndarray:
    """`share_BEG`: part of an expert's tokens that each GPU gets if copies share evenly."""
    batch, gpus, _ = expert_BGK.shape
    row, gpu, slot = np.nonzero(expert_BGK >= 0)
    expert = expert_BGK[row, gpu, slot]
    copies = np.bincount(row * experts + expert, minlength=batch * experts)
    cell = (row * experts + expert) * gpus + gpu
    share = np.bincount(cell, weights=1.0 / copies[row * experts + expert], minlength=batch * experts * gpus)
    return share.reshape(batch, experts, gpus)


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
    if shares is None:
        return counts_SE.astype(np.float64) @ even_shares(placement_array([placement]), experts)[0]
    return counts_SE.astype(np.float64) @ given_shares(placement, shares, experts)


def step_balancedness(gpu_load_XG: np.ndarray) -> np.ndarray:
    """Mean / max over the last axis, in 0..1; 1 if nothing was routed, since then no GPU waits."""
    peak_X = gpu_load_XG.max(axis=-1)
    mean_X = gpu_load_XG.mean(axis=-1)
    return np.minimum(np.divide(mean_X, peak_X, out=np.ones_like(mean_X), where=peak_X > 0), 1.0)


def replay(
    counts_SLE: np.ndarray, placements: Sequence[Placement], shares_L: Sequence[Shares | None] | None = None
) -> np.ndarray:
    """`balancedness_SL`, in 0..1: its mean over steps is a layer's balancedness, its mean over both axes the model's.

    counts_SLE: tokens `[S, L, E]`; placements: one per layer; shares_L: shares of every layer; None, for all layers or
    for one, means even shares.
    """
    steps, layers, experts = counts_SLE.shape
    balancedness_SL = np.empty((steps, layers))
    for layer, placement in enumerate(placements):
        shares = None if shares_L is None else shares_L[layer]
        if shares is None:
            share_BEG = even_shares(placement_array([placement]), experts)
        else:
            share_BEG = given_shares(placement, shares, experts)[None]
        balancedness_SL[:, layer] = _replay_layer(counts_SLE[:, layer], share_BEG)[:, 0]
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
    steps, _, experts = counts_SLE.shape
    balancedness_SB = np.empty((steps, batch))
    at_once = max(1, _MAX_CELLS // (experts * gpus))
    for layer in np.unique(layer_B):
        rows = np.flatnonzero(layer_B == layer)
        counts_SE = counts_SLE[:, layer].astype(np.float64)
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            share_BEG = even_shares(expert_BGK[chunk], experts)
            balancedness_SB[:, chunk] = _replay_layer(counts_SE, share_BEG)
    return balancedness_SB


def _replay_layer(counts_SE: np.ndarray, share_BEG: np.ndarray) -> np.ndarray:
    """`balancedness_SB` of one layer's steps under a batch of shares."""
    batch, experts, gpus = share_BEG.shape
    share_EX = share_BEG.transpose(1, 0, 2).reshape(experts, batch * gpus)
    at_once = max(1, _MAX_CELLS // (batch * gpus))
    parts = []
    for start in range(0, len(counts_SE), at_once):
        counts_XE = counts_SE[start : start + at_once].astype(np.float64, copy=False)
        parts.append(step_balancedness((counts_XE @ share_EX).reshape(-1, batch, gpus)))
    return np.concatenate(parts)
