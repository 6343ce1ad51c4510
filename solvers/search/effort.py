"""How hard placements are searched: stages, each continuing from the placement that the one before found.

A harder effort begins with the stages of an easier one, and the best placement of all stages is used: more effort is
never worse. Work is bounded by counts of proposals, never by a clock: same input, same plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.solvers.problem import EffortName

_COUNTS = 16
"""Approximate number of replica counts searched per layer."""
_LARGE = 500
"""Slots beyond which a placement gets no more proposals, unless there is work left for them."""
_SLOT, _STEP = 16, 2
"""Approximate cost of a proposal, and of every step in it, in nanoseconds of a processor of 2024."""


@dataclass(frozen=True)
class SearchStage:
    """One annealing of every placement."""

    work: float
    """Approximate cost over all layers and replica counts, in nanoseconds; it buys small problems more proposals."""
    least: int
    """Fewest proposals, divided by the number of slots of a placement, however large the problem."""
    most: int
    """Most proposals, divided by the number of slots of a placement, however small the problem."""

    heat: float
    """How much worse a placement may get at first, as a part of what one GPU contributes to the value."""
    sharper: int = 0
    """Squarings of the power mean beyond those of the goal; fewer count more GPUs as stragglers."""
    judged: bool = True
    """Whether its placements are among those that are compared; if not, only the next stage starts from them."""

    def proposals(self, layers: int, steps: int, slots_B: np.ndarray) -> np.ndarray:
        """Number of proposals for each placement, by slots on all GPUs, of problems with `layers` layers."""
        affordable = self.work / (layers * _COUNTS * (_SLOT + _STEP * steps))
        wanted_B = np.maximum(affordable, self.least * np.minimum(slots_B, _LARGE))
        return np.maximum(1, np.minimum(wanted_B, self.most * slots_B)).astype(np.int64)


@dataclass(frozen=True)
class SearchEffort:
    """How the curves and the final plan are searched."""

    stages: tuple[SearchStage, ...]
    """Of every placement, in order, at least one."""
    last: tuple[SearchStage, ...] = ()
    """Further stages for the chosen replica counts: the plan reaches a little more than the curves say, never less."""

    def final(self) -> SearchEffort:
        """The effort for the final plan."""
        return SearchEffort((*self.stages, *self.last))


_HOT = SearchStage(1e7, least=0, most=5_000, heat=0.5, judged=False)
"""For small problems, which the other stages leave in local optima; the larger the problem, the less of it."""
_LOW = SearchStage(1e7, least=1, most=200, heat=0.04, sharper=-1)
_MEDIUM = SearchStage(2e8, least=10, most=800, heat=0.04)
_FINAL = (
    SearchStage(1.5e9, least=60, most=2_500, heat=0.08),
    SearchStage(5e8, least=20, most=800, heat=0.02, sharper=1),
)
_HIGH = SearchStage(1e10, least=250, most=10_000, heat=0.08)
_HIGHEST = SearchStage(1e11, least=2_500, most=50_000, heat=0.08, sharper=1)
SKETCH = SearchEffort((SearchStage(1e7, least=3, most=200, heat=0.04),))
"""For placements that only have to show how replica counts compare."""
EFFORTS: dict[EffortName, SearchEffort] = {
    "low": SearchEffort((_HOT, _LOW), (_MEDIUM,)),
    "medium": SearchEffort((_HOT, _LOW, _MEDIUM), _FINAL),
    "high": SearchEffort((_HOT, _LOW, _MEDIUM, _HIGH), (*_FINAL, _HIGHEST)),
}
