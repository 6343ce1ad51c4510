"""Phases among the steps of loads, and what a plan for each would gain: one line of text, and JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from craftc.solvers.phases import Phase, PhaseGain

_MOST_RANGES = 3


def phases_hint(found: PhaseGain | None) -> str:
    """The phases, their gain and how to get it, if plans for each are worth it; otherwise empty."""
    if found is None or not found.pays:
        return ""
    return f"{phases_text(found)}; craftc plan --per-phase writes a plan for each"


def phases_text(found: PhaseGain) -> str:
    """The phases, and what plans for each reach on steps left out: one line."""
    joint, own = (sum(reached_P) / len(found.phases) for reached_P in (found.joint_P, found.own_P))
    gains = ", ".join(f"{phase.name} {gain:+.3f}" for phase, gain in zip(found.phases, found.gain_P, strict=True))
    return (
        f"phases: {', '.join(map(_phase_text, found.phases))}; on steps left out, one plan for all reaches {joint:.3f} "
        f"balancedness, a plan for each on servers of its own {own:.3f} ({gains})"
    )


def phases_document(found: PhaseGain) -> dict[str, Any]:
    """The same as JSON values, with the numbers of all steps."""
    phases = zip(found.phases, found.joint_P, found.own_P, found.gain_P, strict=True)
    return {
        "gain": found.gain,
        "pays": found.pays,
        "phases": [
            {"name": phase.name, "steps": list(phase.steps), "joint_plan": joint, "own_plan": own, "gain": gain}
            for phase, joint, own, gain in phases
        ],
    }


def _phase_text(phase: Phase) -> str:
    return f"{phase.name} ({len(phase.steps)} steps: {step_ranges(phase.steps)})"


def step_ranges(steps: Sequence[int]) -> str:
    """Ascending numbers in short: `0-7, 12`, or `0, 2, ..., 62`."""
    starts = [number for number, step in enumerate(steps) if number == 0 or step != steps[number - 1] + 1]
    ends = [*(start - 1 for start in starts[1:]), len(steps) - 1]
    ranges = [
        f"{steps[start]}" if start == end else f"{steps[start]}-{steps[end]}"
        for start, end in zip(starts, ends, strict=True)
    ]
    if len(ranges) > _MOST_RANGES:
        ranges = [*ranges[: _MOST_RANGES - 1], "...", ranges[-1]]
    return ", ".join(ranges)
