"""Phases: groups of steps that route differently, such as prefill and decode, and what a plan for each would gain.

Axes: S steps, L layers, E experts, P phases, K steps that gains are measured on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.solvers.cross_validation import deal_steps
from craftc.solvers.problem import Placement, Planner, PlanningProblem
from craftc.solvers.replay import replay
from craftc.solvers.step_clusters import FEWEST_STEPS, cluster_steps, join_nearest, spaced

WORTHWHILE = 0.01
"""Least gain in balancedness that makes a plan for each phase worth its own servers."""
_MOST_NAMED = 4
"""Most phases that names give: more groups are workloads, which go by their loads."""
_FOLDS = 2
_MOST_LAYERS = 8
_MOST_STEPS = 64
"""Most layers, and steps of a phase, that gains are measured on; evenly spaced."""
_SEPARATORS = re.compile(r"[\W\d_]+$")
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Phase:
    """Steps that route alike."""

    name: str
    """What the names of (almost) all of them have in common, or `phase-1`, `phase-2`, ...; fit for a file's name."""
    steps: tuple[int, ...]
    """Numbers of the steps from 0, ascending."""


@dataclass(frozen=True)
class PhaseGain:
    """Balancedness that one plan for all steps, and a plan for each phase, reach on steps left out of planning."""

    phases: tuple[Phase, ...]
    """At least two, which together have every step once, in order of first appearance."""
    joint_P: tuple[float, ...]
    """On each phase with one plan for all steps, in 0..1."""
    own_P: tuple[float, ...]
    """On each phase with its own plan, in 0..1."""

    @property
    def gain_P(self) -> tuple[float, ...]:
        """What each phase gains by a plan of its own; may be negative."""
        return tuple(own - joint for own, joint in zip(self.own_P, self.joint_P, strict=True))

    @property
    def gain(self) -> float:
        """Mean over phases."""
        return sum(self.gain_P) / len(self.phases)

    @property
    def name_S(self) -> tuple[str, ...]:
        """The phase of every step."""
        names = {step: phase.name for phase in self.phases for step in phase.steps}
        return tuple(names[step] for step in range(len(names)))

    @property
    def pays(self) -> bool:
        """Whether the gain is worth a plan, and servers, for each phase."""
        return self.gain >= WORTHWHILE


def find_phases(counts_SLE: np.ndarray, step_names: Sequence[str] = ()) -> tuple[Phase, ...]:
    """The phases of the steps, in order of first appearance; empty if there are not at least two.

    step_names: what steps are called. `prefill_0`, `prefill_1`, `decode/17` name two phases, if at least two names have
    four steps or more; steps of rarer names join the nearest phase. Otherwise steps go by their loads.
    """
    if len(counts_SLE) < 2 * FEWEST_STEPS:
        return ()
    phase_S = _by_name(step_names)
    if phase_S is None:
        phase_S = cluster_steps(counts_SLE)
    if phase_S is None:
        return ()
    joined_S = join_nearest(counts_SLE, phase_S)
    order = list(dict.fromkeys(joined_S.tolist()))
    names = _names([np.flatnonzero(phase_S == phase).tolist() for phase in order], step_names)
    steps_P = [tuple(np.flatnonzero(joined_S == phase).tolist()) for phase in order]
    return tuple(map(Phase, names, steps_P))


def phase_gain(problem: PlanningProblem, planner: Planner, phases: Sequence[Phase]) -> PhaseGain:
    """What a plan for each phase gains over one plan for all, both made without the steps that they are judged on.

    Every phase has its own servers, so every plan has the whole budget. Planned for balancedness at the lowest search
    effort, on at most 8 layers with their part of the budget, and at most 64 steps of every phase.
    """
    planner = planner.at_effort("low")
    kept_S, phase_K = _kept_steps(phases)
    problem = _on_some_layers(problem).on_steps(kept_S)
    fold_K = deal_steps(len(kept_S), _FOLDS, [phases[phase].name for phase in phase_K])
    joint_P, own_P = np.zeros(len(phases)), np.zeros(len(phases))
    for fold in range(_FOLDS):
        planned_K = fold_K != fold
        joint = _planned(problem.on_steps(planned_K), planner)
        for phase in range(len(phases)):
            own = _planned(problem.on_steps(planned_K & (phase_K == phase)), planner)
            judged_SLE = problem.counts_SLE[~planned_K & (phase_K == phase)]
            joint_P[phase] += replay(judged_SLE, joint).mean() / _FOLDS
            own_P[phase] += replay(judged_SLE, own).mean() / _FOLDS
    return PhaseGain(tuple(phases), tuple(joint_P.tolist()), tuple(own_P.tolist()))


def _kept_steps(phases: Sequence[Phase]) -> tuple[np.ndarray, np.ndarray]:
    """`kept_K`, the numbers of the steps that gains are measured on, ascending, and `phase_K`."""
    kept = [spaced(np.array(phase.steps), _MOST_STEPS) for phase in phases]
    kept_K = np.concatenate(kept)
    order_K = np.argsort(kept_K)
    return kept_K[order_K], np.repeat(np.arange(len(phases)), list(map(len, kept)))[order_K]


def _on_some_layers(problem: PlanningProblem) -> PlanningProblem:
    """Evenly spaced layers with their part of the budget, planned for balancedness."""
    some = problem.on_layers(spaced(np.arange(problem.layers), _MOST_LAYERS))
    return replace(
        some,
        budget_bytes=problem.budget_bytes * sum(some.expert_bytes_L) // sum(problem.expert_bytes_L),
        objective="balancedness",
        step_weight_S=None,
        tokens_per_slot=0.0,
    )


def _planned(problem: PlanningProblem, planner: Planner) -> tuple[Placement, ...]:
    return planner.place(problem, planner.allocate(problem, planner.estimate(problem)).replicas_L)


def _by_name(step_names: Sequence[str]) -> np.ndarray | None:
    """`phase_S`, -1 for steps of rare names; None if names do not group most steps into a few phases."""
    stems = [_common_stem([name]) for name in step_names]
    counted = {stem: stems.count(stem) for stem in dict.fromkeys(stems)} if stems else {}
    common = [stem for stem, steps in counted.items() if steps >= FEWEST_STEPS]
    covered = sum(counted[stem] for stem in common)
    if not 2 <= len(common) <= _MOST_NAMED or 4 * covered < 3 * len(stems):
        return None
    return np.array([common.index(stem) if stem in common else -1 for stem in stems])


def _common_stem(names: Sequence[str]) -> str:
    """How all names begin, in whole words and without numbers or separators at the end; empty if they do not."""
    first, last = min(names), max(names)
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[:same]
    if any(len(name) > len(prefix) and name[len(prefix)].isalpha() and prefix[-1:].isalpha() for name in names):
        prefix = re.sub(r"[^\W\d_]+$", "", prefix)
    return _SEPARATORS.sub("", prefix)


def _names(steps_P: Sequence[Sequence[int]], step_names: Sequence[str]) -> list[str]:
    """What the steps of each phase are called in common, if that tells phases apart; otherwise numbers."""
    if step_names:
        stems = [_common_stem([step_names[step] for step in steps]) for steps in steps_P]
        safe = [re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:_LONGEST_NAME] for stem in stems]
        if all(safe) and len({name.casefold() for name in safe}) == len(safe):
            return safe
    return [f"phase-{number}" for number in range(1, len(steps_P) + 1)]
