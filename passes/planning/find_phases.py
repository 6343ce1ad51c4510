"""Find phases among the steps, such as prefill and decode, and what a plan for each would gain on steps left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.solvers.phases import find_phases, phase_gain
from craftc.solvers.planners.registry import planner_for


@dataclass(frozen=True)
class FindPhases(Pass):
    """Plans nothing, and takes milliseconds, if all steps are alike."""

    name: ClassVar[str] = "find_phases"
    needs: ClassVar[tuple[str, ...]] = ("request", "loads", "problem")
    gives: ClassVar[tuple[str, ...]] = ("phases",)

    def run(self, compilation: Compilation) -> Compilation:
        """The gain of a plan for each phase; None if there are no phases."""
        loads, problem = compilation.loads, compilation.problem
        phases = find_phases(loads.counts_SLE, loads.step_names)
        if not phases:
            return updated(compilation, phases=None)
        planner = planner_for(compilation.request.options.planner, problem)
        return updated(compilation, phases=phase_gain(problem, planner, phases))
