from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from craftc.solvers.allocation.hull import concave_hull

curves = st.dictionaries(st.integers(0, 40), st.integers(-20, 20), min_size=1, max_size=12).map(
    lambda points: tuple(zip(*sorted(points.items()), strict=True))
)


@given(curves)
def test_no_point_lies_above_the_hull_and_every_corner_turns_down(curve):
    counts, values = curve
    corners = concave_hull(counts, values)
    assert corners[0] == 0
    assert corners[-1] == len(counts) - 1
    hull = np.interp(counts, [counts[c] for c in corners], [values[c] for c in corners])
    assert (hull >= np.array(values) - 1e-9).all()
    slopes = np.diff([values[c] for c in corners]) / np.diff([counts[c] for c in corners])
    assert (np.diff(slopes) < 0).all()


def test_a_point_on_the_line_is_no_corner():
    assert concave_hull([0, 1, 2, 4], [0.0, 1.0, 2.0, 3.0]) == [0, 2, 3]


def test_one_point():
    assert concave_hull([0], [0.5]) == [0]
