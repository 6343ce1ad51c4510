"""The upper concave hull of a curve: at its corners another replica becomes worth less than the one before."""

from __future__ import annotations

from collections.abc import Sequence


def concave_hull(counts: Sequence[int], values: Sequence[float]) -> list[int]:
    """Positions of the hull's corners, including the first and the last point.

    counts: ascending; values: one for every count. A point on the line between two corners is not a corner.
    """
    corners: list[int] = []
    for last in range(len(counts)):
        while len(corners) > 1:
            first, middle = corners[-2:]
            rise = (values[middle] - values[first]) * (counts[last] - counts[first])
            if rise > (values[last] - values[first]) * (counts[middle] - counts[first]):
                break
            corners.pop()
        corners.append(last)
    return corners
