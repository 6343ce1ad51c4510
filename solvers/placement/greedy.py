"""Which GPU holds which copy: heaviest copy first, to the least loaded GPU, other nodes first (CRAFT).

Axes: B a batch of problems, E experts, G GPUs, N nodes, C copies in order of weight, K slots of a GPU (padded with -1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.topology import Topology

_MAX_CELLS = 32_768
"""Cells [B, G] processed at once: four times as fast if they fit the processor's cache."""


def greedy_placements(
    load_BE: np.ndarray, copies_BE: np.ndarray, slots_BG: np.ndarray, topology: Topology
) -> np.ndarray:
    """`expert_BGK` int32: the expert in every slot, in the order placed, padded with -1.

    load_BE: loads, not negative; copies_BE: copies of every expert, 1..G; slots_BG: slots of every GPU, as many as
    copies, differing by at most one within a row. The heaviest copy goes to the least loaded GPU with a free slot and
    no copy of that expert, on the nodes that hold the fewest copies of it. If no such GPU is left, an exchange makes
    room, which always succeeds: no GPU ever holds an expert twice.
    """
    batch, gpus = slots_BG.shape
    at_once = max(1, _MAX_CELLS // gpus)
    expert_BGK = np.full((batch, gpus, int(slots_BG.max(initial=0))), -1, dtype=np.int32)
    # Rows of similar length fill a chunk without idle rounds.
    order_B = np.argsort(copies_BE.sum(axis=1), kind="stable")
    for start in range(0, batch, at_once):
        rows = order_B[start : start + at_once]
        _Filling.start(load_BE[rows], copies_BE[rows], slots_BG[rows], topology).run(expert_BGK, rows)
    return expert_BGK


@dataclass(frozen=True, eq=False)
class _Filling:
    """A batch of placements being filled; the arrays change by one copy per row in every round."""

    expert_BC: np.ndarray
    """Expert of every copy, heaviest first, copies of one expert next to each other; -1 after the last one."""
    nth_BC: np.ndarray
    """0 for the first copy of an expert, 1 for the second, ..."""
    weight_BE: np.ndarray
    """Load of one copy."""
    load_BG: np.ndarray
    """Load of every GPU, inf once its slots are full."""
    slots_BG: np.ndarray
    free_BG: np.ndarray
    """Free slots."""
    holds_BG: np.ndarray
    """Whether a GPU holds a copy of the expert that is being placed."""
    expert_BGK: np.ndarray
    """The result."""
    node_G: np.ndarray
    nodes: int

    @classmethod
    def start(cls, load_BE: np.ndarray, copies_BE: np.ndarray, slots_BG: np.ndarray, topology: Topology) -> _Filling:
        batch, gpus = slots_BG.shape
        weight_BE = load_BE / copies_BE
        expert_BC, nth_BC = _copies_by_weight(weight_BE, copies_BE)
        return cls(
            expert_BC=expert_BC,
            nth_BC=nth_BC,
            weight_BE=weight_BE,
            load_BG=np.where(slots_BG > 0, 0.0, np.inf),
            slots_BG=slots_BG,
            free_BG=slots_BG.copy(),
            holds_BG=np.zeros((batch, gpus), dtype=bool),
            expert_BGK=np.full((batch, gpus, int(slots_BG.max(initial=0))), -1, dtype=np.int32),
            node_G=np.asarray(topology.node_of_gpu_G),
            nodes=topology.nodes,
        )

    def run(self, expert_BGK: np.ndarray, rows: np.ndarray) -> None:
        """Place every copy and write the result into `rows` of `expert_BGK`."""
        copies_B = (self.expert_BC >= 0).sum(axis=1)
        every_B = np.arange(len(copies_B))
        for copy in range(self.expert_BC.shape[1]):
            # Rows with more copies come later.
            first = int(np.searchsorted(copies_B, copy, side="right"))
            active, gpu = every_B[first:], self._choose(first, copy)
            stuck = self.free_BG[active, gpu] <= 0
            if stuck.any():
                for row in active[stuck]:
                    self._exchange(int(row), int(self.expert_BC[row, copy]))
                active, gpu = active[~stuck], gpu[~stuck]
            self._put(active, gpu, copy)
        expert_BGK[rows, :, : self.expert_BGK.shape[2]] = self.expert_BGK

    def _choose(self, first: int, copy: int) -> np.ndarray:
        """The GPU for this round's copy of every row from `first` on; one without a free slot if the row is stuck."""
        again = self.nth_BC[first:, copy] > 0
        load_RG = self.load_BG[first:]
        if again.any():
            self.holds_BG[first:][~again] = False
            load_RG = load_RG.copy()
            load_RG[again] = self._allowed_load(first + np.flatnonzero(again))
        else:
            self.holds_BG[first:] = False
        gpu = load_RG.argmin(axis=1)
        blocked = np.isinf(load_RG[np.arange(len(gpu)), gpu])
        if blocked.any():
            # A row with only infinite loads may point at a GPU that has room but holds the expert: mark it stuck.
            gpu[blocked] = self.free_BG[first:][blocked].argmin(axis=1)
        return gpu

    def _allowed_load(self, rows: np.ndarray) -> np.ndarray:
        """Loads of `rows`, inf on GPUs that hold the expert and on nodes with more copies than another allowed one."""
        load_RG = np.where(self.holds_BG[rows], np.inf, self.load_BG[rows])
        if self.nodes == 1:
            return load_RG
        held_RN = self.holds_BG[rows].reshape(len(rows), self.nodes, -1).sum(axis=2)
        held_RG = np.where(np.isinf(load_RG), len(self.node_G), held_RN[:, self.node_G])
        return np.where(held_RG == held_RG.min(axis=1, keepdims=True), load_RG, np.inf)

    def _put(self, rows: np.ndarray, gpu: np.ndarray, copy: int) -> None:
        expert = self.expert_BC[rows, copy]
        cell = rows * self.free_BG.shape[1] + gpu  # flat views take a third of the time
        free = self.free_BG.ravel()[cell]
        slot = self.slots_BG.ravel()[cell] - free
        self.expert_BGK.reshape(-1, self.expert_BGK.shape[2])[cell, slot] = expert
        self.holds_BG.reshape(-1)[cell] = True
        self.free_BG.reshape(-1)[cell] = free - 1
        load = self.load_BG.ravel()[cell] + self.weight_BE[rows, expert]
        self.load_BG.reshape(-1)[cell] = np.where(free == 1, np.inf, load)

    def _exchange(self, row: int, expert: int) -> None:
        """Place `expert` when every GPU with room already holds it: a full GPU takes it and passes another copy on.

        Not counting `expert`, a GPU with room holds fewer copies than a full one, so there is always one to pass on.
        Takes the pair of GPUs that is least loaded after the exchange.
        """
        weight_E = self.weight_BE[row]
        held_GK = self.expert_BGK[row]
        load_G = np.where(held_GK >= 0, weight_E[held_GK], 0.0).sum(axis=1)
        best: tuple[float, int, int, int] | None = None
        for roomy in np.flatnonzero(self.free_BG[row] > 0):
            for full in np.flatnonzero(~self.holds_BG[row]):
                moved = np.flatnonzero((held_GK[full] >= 0) & ~np.isin(held_GK[full], held_GK[roomy]))
                if not moved.size:
                    continue
                weight_M = weight_E[held_GK[full, moved]]
                peak_M = np.maximum(load_G[roomy] + weight_M, load_G[full] - weight_M + weight_E[expert])
                choice = int(peak_M.argmin())
                best = min(
                    best or (np.inf, 0, 0, 0), (float(peak_M[choice]), int(roomy), int(full), int(moved[choice]))
                )
        assert best is not None, "slots differ by more than one, or an expert has more copies than there are GPUs"
        _, receiver, taker, slot = best
        held_GK[receiver, (held_GK[receiver] >= 0).sum()] = held_GK[taker, slot]
        held_GK[taker, slot] = expert
        self.holds_BG[row, taker] = True
        self.free_BG[row, receiver] -= 1
        if self.free_BG[row, receiver] == 0:
            self.load_BG[row, receiver] = np.inf
        else:
            self.load_BG[row, receiver] = weight_E[held_GK[receiver][held_GK[receiver] >= 0]].sum()


def _copies_by_weight(weight_BE: np.ndarray, copies_BE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`expert_BC` and `nth_BC`: copies in order of weight (then expert id), padded with -1, numbered per expert."""
    batch = len(weight_BE)
    order_BE = np.argsort(-weight_BE, axis=1, kind="stable")
    copies_in_order = np.take_along_axis(copies_BE, order_BE, axis=1).ravel()
    total_B = copies_BE.sum(axis=1)
    row = np.repeat(np.arange(batch), total_B)
    column = np.arange(len(row)) - np.repeat(np.cumsum(total_B) - total_B, total_B)
    first = np.repeat(np.cumsum(copies_in_order) - copies_in_order, copies_in_order)
    expert_BC = np.full((batch, int(total_B.max(initial=0))), -1, dtype=np.int32)
    nth_BC = np.zeros(expert_BC.shape, dtype=np.int32)
    expert_BC[row, column] = np.repeat(order_BE.ravel(), copies_in_order)
    nth_BC[row, column] = np.arange(len(row)) - first
    return expert_BC, nth_BC
