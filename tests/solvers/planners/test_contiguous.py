"""Experts in order, whatever the slots."""

import numpy as np

from craftc.solvers.planners.contiguous import contiguous_placement


def test_experts_in_order():
    assert contiguous_placement(np.array([2, 2, 1, 0])) == ((0, 1), (2, 3), (4,), ())
