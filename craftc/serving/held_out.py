"""Which steps are planned from, and which judge: a plan must not be judged on the steps that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.solvers.cross_validation import deal_steps


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Loads to plan from, and loads to judge on."""

    planned: LoadProfile
    """Planned from."""
    judged: LoadProfile
    """Judged on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line if plans are judged on what they were made from."""
        if self.planned.sha256 != self.judged.sha256:
            return ()
        steps = "one step" if self.planned.steps == 1 else f"the same {self.planned.steps} steps"
        return (
            f"planned from and judged on {steps}: on other steps replicas gain less; record more, or give others with "
            f"--judge",
        )


def held_out(loads: LoadProfile, judge: LoadProfile | None) -> HeldOut:
    """`loads` and `judge`; without it, the steps of `loads` dealt into two halves, as for cross-validation.

    Raises BadInput if a layer has no tokens in one of the halves.
    """
    if judge is not None:
        return HeldOut(loads, judge)
    if loads.steps == 1:
        return HeldOut(loads, loads)
    fold_S = deal_steps(loads.steps, 2, loads.step_names)
    for fold in (0, 1):
        tokens_L = loads.counts_SLE[fold_S == fold].sum(axis=(0, 2))
        if not tokens_L.all():
            layer = loads.layer_names[int(np.flatnonzero(tokens_L == 0)[0])]
            raise BadInput(
                f"half of the {loads.steps} steps are planned from and the others judge, but {layer} has no tokens in "
                f"one half: give other steps to judge on, or record more"
            )
    planned, judged = (loads.select_steps(np.flatnonzero(fold_S == fold).tolist()) for fold in (0, 1))
    return HeldOut(planned, judged)
