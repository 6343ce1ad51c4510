"""Placements being searched, many problems at once; the moves of `swaps` and `exchanges` change them in place.

Axes: K steps, B problems, X experts and one empty slot, G GPUs, N slots, slot n on GPU n % G.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.search.smoothed_peak import ExpertLoads, copies_of


@dataclass(frozen=True, eq=False)
class PlacementBatch:
    """A batch of placements with equally many slots; empty ones (at most one per GPU) hold the id after all experts."""

    loads: ExpertLoads
    expert_BN: np.ndarray
    """Expert in every slot, int64."""
    copies_BX: np.ndarray
    """Copies of every expert."""
    holds_BXG: np.ndarray
    """Whether a GPU holds a copy, bool; an empty slot counts as a copy, so that no GPU gets two."""
    load_KBN: np.ndarray
    """Load of the copy in every slot."""
    gpus: int

    @classmethod
    def start(cls, loads: ExpertLoads, expert_BN: np.ndarray, gpus: int) -> PlacementBatch:
        """A batch that takes over `expert_BN`."""
        batch, slots = expert_BN.shape
        columns = loads.risk_BX.shape[1]
        copies_BX = copies_of(expert_BN, columns)
        holds_BXG = np.zeros((batch, columns, gpus), dtype=bool)
        holds_BXG[np.arange(batch)[:, None], expert_BN, np.arange(slots) % gpus] = True
        load_KBN = loads.of_copies(expert_BN, np.take_along_axis(copies_BX, expert_BN, axis=1))
        return cls(loads, expert_BN, copies_BX, holds_BXG, load_KBN, gpus)

    @property
    def experts(self) -> int:
        return self.copies_BX.shape[1] - 1

    def rows(self, chosen_B: np.ndarray) -> PlacementBatch:
        """A new batch of the chosen rows, given by number."""
        return PlacementBatch(
            self.loads.rows(chosen_B),
            self.expert_BN[chosen_B],
            self.copies_BX[chosen_B],
            self.holds_BXG[chosen_B],
            self.load_KBN.take(chosen_B, axis=1),
            self.gpus,
        )

    def swap(self, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        """Swap the contents of two slots on different GPUs in each of `rows`."""
        first_expert, second_expert = self.expert_BN[rows, first], self.expert_BN[rows, second]
        here, there = first % self.gpus, second % self.gpus
        self.holds_BXG[rows, first_expert, here] = self.holds_BXG[rows, second_expert, there] = False
        self.holds_BXG[rows, first_expert, there] = self.holds_BXG[rows, second_expert, here] = True
        self.expert_BN[rows, first], self.expert_BN[rows, second] = second_expert, first_expert
        load_KR = self.load_KBN[:, rows, first]
        self.load_KBN[:, rows, first] = self.load_KBN[:, rows, second]
        self.load_KBN[:, rows, second] = load_KR

    def put(self, rows: np.ndarray, changed: PlacementBatch) -> None:
        """Replace `rows` with the rows of `changed`."""
        self.expert_BN[rows] = changed.expert_BN
        self.copies_BX[rows] = changed.copies_BX
        self.holds_BXG[rows] = changed.holds_BXG
        self.load_KBN[:, rows] = changed.load_KBN
