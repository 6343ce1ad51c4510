"""Random numbers of the compiled search: the same on every machine and for any number of threads."""

from __future__ import annotations

import numpy as np

from craftc.solvers.search.compiled import compiled


@compiled
def next_word(random: np.ndarray) -> np.uint64:
    """The next of the sequence in `random` (xorshift)."""
    word = random[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    random[0] = word
    return word


@compiled
def part_of(word: np.uint64, quarter: int, end: int) -> int:
    """A number in 0..end-1 from a quarter of a random word."""
    bits = (word >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
    return np.int64((bits * np.uint64(end)) >> np.uint64(16))  # type: ignore[return-value]
