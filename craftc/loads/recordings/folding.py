"""From what a server recorded to a load profile: folds physical counts to logical ones, detects dense layers and idle
steps.

Axes: S steps, L layers of the recording, P physical slots, E logical experts.
"""

from __future__ import annotations

import numpy as np

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile

MAX_CELLS = 2**30
"""Largest recording read, in counts: 8 GiB as int64."""


def fold_slots(counts_SLP: np.ndarray, expert_LP: np.ndarray, where: str) -> np.ndarray:
    """`counts_SLE` int64: the counts of an expert's copies added up.

    expert_LP: expert in every slot; every expert 0..E-1 has a slot in every layer. Raises BadInput otherwise.
    """
    experts = int(expert_LP.max(initial=-1)) + 1
    if counts_SLP.shape[1:] != expert_LP.shape:
        raise BadInput(
            f"{where}: counts are {list(counts_SLP.shape[1:])} [layers, slots], the map {list(expert_LP.shape)}"
        )
    if not 0 < experts <= expert_LP.shape[1] or expert_LP.min() < 0:
        raise BadInput(
            f"{where}: the slot map holds ids {expert_LP.min()} to {experts - 1} in {expert_LP.shape[1]} slots"
        )
    counts_SLE = np.empty((*counts_SLP.shape[:2], experts), dtype=np.int64)
    for layer, expert_P in enumerate(expert_LP):
        order_P = np.argsort(expert_P, kind="stable")
        present_E, start_E = np.unique(expert_P[order_P], return_index=True)
        if len(present_E) != experts:
            missing = int(np.setdiff1d(np.arange(experts), present_E)[0])
            raise BadInput(f"{where}: the slot map of layer {layer} has no slot for expert {missing}")
        np.add.reduceat(counts_SLP[:, layer, order_P], start_E, axis=1, dtype=np.int64, out=counts_SLE[:, layer])
    return counts_SLE


def without_idle_steps(counts_SLE: np.ndarray, steps: str, where: str) -> np.ndarray:
    """The steps in which anything was routed; for recordings that hold idle ones by design. Raises BadInput if none
    is left.
    """
    busy_S = counts_SLE.any(axis=(1, 2))
    if not busy_S.any():
        raise BadInput(f"{where}: no tokens in any of {len(counts_SLE)} {steps}; record while the server has traffic")
    return counts_SLE if busy_S.all() else counts_SLE[busy_S]


def refuse_idle_steps(counts_SLE: np.ndarray, steps: list[str], where: str) -> None:
    """Raise BadInput naming the first step in which nothing was routed."""
    idle = np.flatnonzero(~counts_SLE.any(axis=(1, 2)))
    if idle.size:
        raise BadInput(
            f"{where}: {idle.size} of {len(counts_SLE)} steps hold no tokens, the first is {steps[idle[0]]}; "
            f"record while the server has traffic"
        )


def profile_of_layers(
    counts_SLE: np.ndarray, indices_L: list[int], where: str, top_k: int | None = None
) -> LoadProfile:
    """A profile of the MoE layers: layers without a token in any step are dense and dropped, the others keep indices.

    The profile keeps the array itself, read-only, so that a large recording is not copied. Raises BadInput if a
    layer has tokens in some steps only (the recording is partial).
    """
    counts_SLE.flags.writeable = False
    routed_SL = np.asarray(counts_SLE.any(axis=2))
    moe_L = routed_SL.any(axis=0)
    if not moe_L.any():
        raise BadInput(f"{where}: no tokens in any of {len(counts_SLE)} steps; record while the server has traffic")
    gaps = np.argwhere(~routed_SL & moe_L & routed_SL.any(axis=1, keepdims=True))
    if gaps.size:
        step, layer = (int(part) for part in gaps[0])
        raise BadInput(
            f"{where}: layer {indices_L[layer]} has no tokens in step {step}, though other layers have: "
            f"a partial recording ({len(gaps)} such cells)"
        )
    moe_layers = np.flatnonzero(moe_L)
    indices = tuple(indices_L[layer] for layer in moe_layers)
    first, last = int(moe_layers[0]), int(moe_layers[-1])
    counts_SLE = counts_SLE[:, first : last + 1]
    return LoadProfile(
        counts_SLE=counts_SLE if counts_SLE.shape[1] == len(moe_layers) else counts_SLE[:, moe_layers - first],
        layer_names=tuple(f"layers.{index}" for index in indices),
        layer_indices=indices,
        top_k=(top_k,) * len(indices),
        provenance=where,
    )


def check_ranks(ranks: list[int], where: str) -> None:
    """Raise BadInput unless `ranks` are 0..n-1, each once."""
    if not ranks:
        raise BadInput(f"{where}: it holds no file of any rank")
    twice = next((rank for rank in ranks if ranks.count(rank) > 1), None)
    if twice is not None:
        raise BadInput(f"{where}: several files of rank {twice}; give a folder with one recording")
    missing = sorted(set(range(max(ranks) + 1)) - set(ranks))
    if missing:
        raise BadInput(
            f"{where}: {len(missing)} of {max(ranks) + 1} ranks are missing, the first is rank {missing[0]}; "
            f"copy all ranks' files into one folder"
        )


def check_cells(shape: tuple[int, ...], where: str) -> None:
    """Raise BadInput if a recording is empty or larger than craftc reads."""
    cells = 1
    for size in shape:
        cells *= size
    if not 0 < cells <= MAX_CELLS:
        raise BadInput(f"{where}: {' x '.join(map(str, shape))} counts, expected 1 to {MAX_CELLS}")
