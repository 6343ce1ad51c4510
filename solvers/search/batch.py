"""Many placements to search, as arrays that compiled code can take.

Axes: B placements, T stages, G GPUs, C slots of a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Where every placement starts, how it is searched, and what was found."""

    layer_B: np.ndarray
    """The layer of every placement."""
    slots_B: np.ndarray
    """Slots of the fullest GPU; those beyond are not used."""
    slot_BGC: np.ndarray
    """The copies of every placement, dealt heaviest first; the id after all experts in an empty slot; int32."""
    squarings_T: np.ndarray
    """The exponent of every stage's power mean is 2 ** squarings."""
    heat_T: np.ndarray
    proposals_TB: np.ndarray
    found_TBGC: np.ndarray
    """The placements after every stage, padded with -1; int32."""
    falls: bool
    """Whether the power mean is to be small on average, rather than its inverse large."""
    seed: int
