"""How uneven a placement leaves the work of a step: the GPU, the network card and the node that get most.

Every step of the loads is replayed. What a step takes follows the mean over steps of max / mean, not the inverse of
balancedness. Steps with few tokens are uneven by chance as well: for them the tokens of every GPU are drawn (Poisson,
by its quantiles in the expansion of Cornish and Fisher, with the same random numbers for every placement).

Axes: S steps, L layers, E experts, G GPUs, U units (GPUs, network cards or nodes), K slots of a GPU, N numbers of used
slots from 0, P token numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from craftc.errors import BadInput
from craftc.solvers.problem import Placement, Shares
from craftc.solvers.replay import gpu_loads, placement_array

_SPACING = 4
"""Factor between two token numbers; peaks are interpolated in 1 / sqrt(tokens), in which chance is linear."""
_MOST_TOKENS = 4**12
"""Above, chance no longer counts."""
_DRAWS = 16
"""Draws per token number: steps, and each of them repeatedly if there are fewer."""
_STEPS_OF_SLOTS = 4
"""Most steps that used slots are the mean of: their number depends less on the step than on the number of tokens."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """Peaks of every layer, by the tokens in a step of the whole server."""

    tokens_P: np.ndarray
    """Numbers of tokens, descending, the first infinite: the loads as recorded, without chance."""
    gpu_PL: np.ndarray
    """Tokens of the GPU that has most / mean, mean over steps, at least 1 (but for chance)."""
    nic_PL: np.ndarray
    """The same of network cards."""
    node_PL: np.ndarray
    """The same of nodes."""
    slots_PL: np.ndarray
    """Slots that get at least one token, on the GPU that has most of them, mean over steps."""

    def at(self, tokens_K: np.ndarray) -> Peaks:
        """Interpolated at other numbers of tokens, above 0."""
        known_P = 1 / np.sqrt(self.tokens_P)
        wanted_K = np.clip(1 / np.sqrt(tokens_K), 0.0, known_P[-1])
        upper_K = np.clip(np.searchsorted(known_P, wanted_K), 1, len(known_P) - 1)
        step_K = known_P[upper_K] - known_P[upper_K - 1]
        part_K1 = ((wanted_K - known_P[upper_K - 1]) / step_K)[:, None]
        between = (
            (1 - part_K1) * peak_PL[upper_K - 1] + part_K1 * peak_PL[upper_K]
            for peak_PL in (self.gpu_PL, self.nic_PL, self.node_PL, self.slots_PL)
        )
        return Peaks(tokens_K, *between)


def measure_peaks(
    counts_SLE: np.ndarray,
    placements: Sequence[Placement],
    top_k_L: Sequence[int],
    gpus_per_nic: int,
    gpus_per_node: int,
    shares_L: Sequence[Shares | None] | None = None,
) -> Peaks:
    """Peaks of `placements` on loads.

    counts_SLE: tokens; layers without tokens in a step are left out of its mean.
    top_k_L: experts per token in every layer.
    gpus_per_nic, gpus_per_node: which neighbours share a network card and a node; each divides the next and the GPUs.

    Raises BadInput if they do not.
    """
    gpus = len(placements[0])
    if gpus % gpus_per_node or gpus_per_node % gpus_per_nic:
        raise BadInput(f"{gpus} GPUs, {gpus_per_node} to a node and {gpus_per_nic} to a network card, do not divide")
    tokens_P = _token_numbers()
    random = np.random.default_rng(0)
    peaks_QPL = np.empty((4, len(tokens_P), len(placements)))
    for layer, placement in enumerate(placements):
        shares = None if shares_L is None else shares_L[layer]
        load_SG = gpu_loads(counts_SLE[:, layer], placement, shares)
        load_SG = load_SG[load_SG.sum(axis=1) > 0]
        load_SG /= load_SG.sum(axis=1, keepdims=True)
        pairs_P = tokens_P * top_k_L[layer]
        for row, together in enumerate((1, gpus_per_nic, gpus_per_node)):
            load_SU = load_SG.reshape(len(load_SG), -1, together).sum(axis=2)
            peaks_QPL[row, :, layer] = _unit_peaks(load_SU, pairs_P, random)
        peaks_QPL[3, :, layer] = _slots(counts_SLE[:, layer], placement, shares, pairs_P)
    return Peaks(tokens_P, *peaks_QPL)


def _token_numbers() -> np.ndarray:
    finite = [_MOST_TOKENS]
    while finite[-1] > 1:
        finite.append(finite[-1] // _SPACING)
    return np.array([np.inf, *finite])


def _unit_peaks(load_SU: np.ndarray, pairs_P: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`peak_P`: tokens of the unit that has most / mean; parts of a step's tokens in `load_SU` sum to 1."""
    units = load_SU.shape[1]
    without_chance = float(load_SU.max(axis=1).mean() * units)
    # Sorted, so that units that change places (GPUs of one node) meet the same random numbers.
    part_SU = np.sort(_thinned(load_SU), axis=1)
    normal_SU = random.standard_normal(part_SU.shape)
    # Peaks of the drawn steps are scaled to those of all steps.
    of_all = without_chance / float(part_SU.max(axis=1).mean())
    peak_P = np.full(len(pairs_P), without_chance)
    for number, pairs in enumerate(pairs_P[1:], start=1):
        mean_SU = pairs * part_SU
        drawn_SU = mean_SU + np.sqrt(mean_SU) * normal_SU + np.where(mean_SU > 0, (normal_SU**2 - 1) / 6, 0)
        peak_P[number] = drawn_SU.max(axis=1).mean() / pairs * of_all
    return np.maximum(peak_P, without_chance)


def _slots(counts_SE: np.ndarray, placement: Placement, shares: Shares | None, pairs_P: np.ndarray) -> np.ndarray:
    """`slots_P`: slots with a token on the GPU that has most of them, expected, mean over steps."""
    expert_GK = placement_array([placement])[0]
    filled_GK = expert_GK >= 0
    if shares is None:
        copies_E = np.bincount(expert_GK[filled_GK], minlength=counts_SE.shape[1])
        share_GK = filled_GK / np.maximum(copies_E, 1)[expert_GK]
    else:
        share_GK = np.zeros(expert_GK.shape)
        share_GK[filled_GK] = [share for gpu in shares for share in gpu]
    counts_SE = _some_steps(counts_SE[counts_SE.sum(axis=1) > 0], _STEPS_OF_SLOTS)
    part_SGK = (counts_SE / counts_SE.sum(axis=1, keepdims=True))[:, expert_GK] * share_GK
    slots_P = np.full(len(pairs_P), float(filled_GK.sum(axis=1).max()))
    for number, pairs in enumerate(pairs_P[1:], start=1):
        slots_P[number] = _most_used(-np.expm1(-pairs * part_SGK)).mean()
    return slots_P


def _most_used(chance_SGK: np.ndarray) -> np.ndarray:
    """`slots_S`: expected number of used slots on the GPU that uses most; each is used by its own chance."""
    *steps_and_gpus, slots = chance_SGK.shape
    # Chances of 0, 1, 2, ... used slots, of more and more slots of a GPU.
    count_SGN = np.zeros((*steps_and_gpus, slots + 1))
    count_SGN[..., 0] = 1
    for slot in range(slots):
        moved_SGN = count_SGN[..., : slot + 1] * chance_SGK[..., slot, None]
        count_SGN[..., : slot + 1] -= moved_SGN
        count_SGN[..., 1 : slot + 2] += moved_SGN
    at_most_SN = np.cumsum(count_SGN, axis=2).prod(axis=1)
    most_S: np.ndarray = (1 - at_most_SN[:, :-1]).sum(axis=1)
    return most_S


def _thinned(load_SX: np.ndarray) -> np.ndarray:
    """As many steps as there are draws, evenly spaced, or every step equally often."""
    some_SX = _some_steps(load_SX, _DRAWS)
    return np.repeat(some_SX, -(-_DRAWS // len(some_SX)), axis=0)


def _some_steps(load_SX: np.ndarray, most: int) -> np.ndarray:
    """Evenly spaced steps, `most` of them; all if there are fewer."""
    steps = len(load_SX)
    return load_SX[np.linspace(0, steps - 1, min(steps, most)).round().astype(int)]
