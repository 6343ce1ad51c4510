"""Seconds of one step of a server of lockstep ranks, tabulated once so that a simulation can look them up.

Axes: K ranks that prefill (0..ranks), D numbers of decoding requests.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from craftc.errors import BadInput


@dataclass(frozen=True, eq=False)
class StepTable:
    """Seconds of a step by ranks that prefill in it and requests that decode in it."""

    decodes_D: np.ndarray
    """Decoding requests of all ranks together, ascending from 0."""
    seconds_KD: np.ndarray
    """Seconds, `[ranks + 1, D]`, above 0; only a step without any request, `[0, 0]`, may take 0."""

    def __post_init__(self) -> None:
        decodes_D, seconds_KD = _numbers("decodes_D", self.decodes_D, 1), _numbers("seconds_KD", self.seconds_KD, 2)
        if not len(decodes_D) or decodes_D[0] != 0 or (np.diff(decodes_D) <= 0).any():
            raise BadInput(f"step table: decodes_D must start at 0 and ascend, got {decodes_D.tolist()}")
        if len(seconds_KD) < 2 or seconds_KD.shape[1] != len(decodes_D):
            raise BadInput(
                f"step table: seconds_KD must have a row for 0 and for each of 1 or more ranks and {len(decodes_D)} "
                f"columns like decodes_D, got shape {seconds_KD.shape}"
            )
        wrong_KD = seconds_KD <= 0
        wrong_KD[0, 0] = seconds_KD[0, 0] < 0
        if wrong_KD.any():
            rank, column = np.argwhere(wrong_KD)[0]
            raise BadInput(
                f"step table: a step with {rank} ranks that prefill and {decodes_D[column]:g} decodes must take more "
                f"than 0 seconds, got {seconds_KD[rank, column]}"
            )

    @property
    def ranks(self) -> int:
        """Data-parallel ranks."""
        return len(self.seconds_KD) - 1

    def seconds(self, prefilling: int, decodes: float) -> float:
        """Seconds of a step in which `prefilling` ranks prefill and `decodes` requests decode.

        Linear between the columns. Beyond the last one the last slope goes on, but time never falls there.
        Raises BadInput if there are no such ranks or decodes.
        """
        if not 0 <= prefilling <= self.ranks or not 0 <= decodes < math.inf:
            raise BadInput(
                f"step table: it holds 0..{self.ranks} ranks that prefill and 0 or more decodes, asked for "
                f"{prefilling} and {decodes}"
            )
        columns, slopes_of_rows, rows = self._lines
        column = bisect_right(columns, decodes) - 1
        return rows[prefilling][column] + slopes_of_rows[prefilling][column] * (decodes - columns[column])

    @cached_property
    def _lines(self) -> tuple[list[float], list[list[float]], list[list[float]]]:
        """`decodes_D`, the slope to the right of every cell, and `seconds_KD`: as lists, which are quicker to index."""
        slope_KD: np.ndarray = np.zeros(self.seconds_KD.shape)
        slope_KD[:, :-1] = np.diff(self.seconds_KD) / np.diff(self.decodes_D)
        slope_KD[:, -1] = np.maximum(slope_KD[:, max(0, len(self.decodes_D) - 2)], 0.0)
        return self.decodes_D.tolist(), slope_KD.tolist(), self.seconds_KD.tolist()


def _numbers(name: str, given: object, axes: int) -> np.ndarray:
    """`given`, if it is an array of finite numbers with this many axes."""
    if not isinstance(given, np.ndarray) or given.ndim != axes or given.dtype.kind not in "iuf":
        raise BadInput(f"step table: {name} must be an array of numbers with {axes} axes, got {type(given).__name__}")
    if not np.isfinite(given).all():
        raise BadInput(f"step table: {name} must be finite, got {given[~np.isfinite(given)][0]}")
    return given
