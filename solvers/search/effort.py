"""How hard placements are searched: stages of growing reach, each continuing from the one before.

A higher effort begins with the stages of a lower one, and the best placement of all stages is used: more effort is
never worse. Work is bounded by counts of rounds and restarts, never by a clock: same input, same plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from craftc.solvers.problem import EffortName

_COUNTS = 9
"""Approximate number of replica counts searched per layer."""
_DESCENT_ROUNDS, _RESTART_ROUNDS = 35, 10
"""Approximate rounds of a first descent and of a restart."""

_CELLS_PER_GPU = 4
"""Cost of finding partners, per straggler and GPU, in pairs of slots."""


@dataclass(frozen=True)
class SearchStage:
    """A descent, then as many restarts with noisy loads as `work` allows."""

    stragglers: int
    """GPUs whose copies are tried in a round, at least 1."""
    partners: int
    """GPUs that each of them is tried against, at least 1."""
    work: float = 0.0
    """Approximate number of slot pairs, times steps, to try over all layers and replica counts; it buys small problems
    more restarts than large ones."""
    least: int = 0
    """Fewest restarts, however large the problem."""
    most: int = 0
    """Most restarts, however small the problem."""

    def restarts(self, layers: int, steps: int, gpus: int, slots: int) -> int:
        """Number of restarts for problems of `layers` layers with at most `slots` slots on each of `gpus` GPUs."""
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
    """Further restarts of the last stage for the chosen replica counts: the plan reaches a little more than the curves
    say, never less."""
    all_counts: bool = False
    """Also try counts halfway between powers of two."""

    def final(self) -> SearchEffort:
        """The effort for the final plan."""
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
