"""A planner around another one, which can do what the inner one can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from craftc.solvers.problem import EffortName, ObjectiveName, Planner


@dataclass(frozen=True)
class PlannerAround(Planner):
    """Base class: the name and the capabilities are those of `inner`."""

    inner: Planner
    """The planner that it uses."""

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def objectives(self) -> frozenset[ObjectiveName]:
        return self.inner.objectives

    @property
    def weighs_steps(self) -> bool:
        return self.inner.weighs_steps

    @property
    def keeps_groups(self) -> bool:
        return self.inner.keeps_groups

    @property
    def per_layer(self) -> bool:
        return self.inner.per_layer

    @property
    def sketches(self) -> bool:
        return self.inner.sketches

    def at_effort(self, effort: EffortName) -> Self:
        """The same planner with `inner` at that effort."""
        return replace(self, inner=self.inner.at_effort(effort))
