"""How hard placements are searched: stages of growing reach, each going on from the one before.

A harder effort begins with the stages of an easier one, and the best placement of all stages counts: more effort is
never worse. Work is bounded by counts of rounds and restarts, never by a clock: same input, same plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from craftc.solvers.problem import EffortName

_COUNTS = 9
"""Replica counts per layer that are searched, about."""
_DESCENT_ROUNDS, _RESTART_ROUNDS = 35, 10
"""Rounds of a first descent and of a restart, about."""

_CELLS_PER_GPU = 4
"""What finding partners among all GPUs costs, in pairs of slots."""


@dataclass(frozen=True)
class SearchStage:
    """A descent, then restarts from loads with noise: as many as `work` allows."""

    stragglers: int
    """GPUs whose copies are tried in a round, at least 1."""
    partners: int
    """GPUs each of them is tried against, at least 1."""
    work: float = 0.0
    """Pairs of slots, times steps, to look at over all layers and replica counts, about; small problems get more
    restarts out of it than large ones."""
    least: int = 0
    """Restarts however large the problem."""
    most: int = 0
    """Restarts however small the problem."""

    def restarts(self, layers: int, steps: int, gpus: int, slots: int) -> int:
        """Restarts for problems of `layers` layers with at most `slots` slots on each of `gpus` GPUs."""
        stragglers = min(self.stragglers, gpus)
        cells = stragglers * min(self.partners, gpus) * slots**2 + _CELLS_PER_GPU * stragglers * gpus
        rounds = self.work / (_COUNTS * layers * steps * cells)
        return int(min(max((rounds - _DESCENT_ROUNDS) // _RESTART_ROUNDS, self.least), self.most))


@dataclass(frozen=True)
class SearchEffort:
    """The stages of a search."""

    stages: tuple[SearchStage, ...]
    """In order, at least one."""
    final_restarts: int = 0
    """Further restarts, of the last stage, for the replica counts that were chosen: the curves tell a little less than
    the plan will reach, never more."""
    all_counts: bool = False
    """Try counts between the powers of two and their halves as well."""

    def final(self) -> SearchEffort:
        """The effort for the plan itself."""
        if not self.final_restarts:
            return self
        last = replace(self.stages[-1], work=0.0, least=self.final_restarts, most=self.final_restarts)
        return replace(self, stages=(*self.stages, last))


_LOW = (SearchStage(4, 8),)
_MEDIUM = (*_LOW, SearchStage(8, 16, work=1.2e9, most=24))
_HIGH = (*_MEDIUM, SearchStage(16, 32, work=2e10, least=6, most=60))
EFFORTS: dict[EffortName, SearchEffort] = {
    "low": SearchEffort(_LOW),
    "medium": SearchEffort(_MEDIUM, final_restarts=3),
    "high": SearchEffort(_HIGH, final_restarts=10, all_counts=True),
}
