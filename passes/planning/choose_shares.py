"""Let copies take unequal shares of their expert's tokens in the layers in which unseen steps gain by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.passes.planning.writing.comparison import with_planned
from craftc.plans.verifier import require_sound
from craftc.solvers.objectives import most_slots, placed_step_time
from craftc.solvers.replay import replay
from craftc.solvers.shares import Aim, choose_shares


@dataclass(frozen=True)
class ChooseShares(Pass):
    """Leaves placements unchanged."""

    name: ClassVar[str] = "choose_shares"
    needs: ClassVar[tuple[str, ...]] = ("problem", "plan")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        """The plan with shares in the layers that gain, and a new estimate; other layers keep the shares that they
        have.

        Raises VerificationFailed for a bug here.
        """
        plan, problem = compilation.plan, compilation.problem
        assert plan.estimate is not None
        placements = [layer.placement for layer in plan.layers]
        aim_L = [Aim(problem.objective, problem.tokens_per_slot * slots) for slots in most_slots(placements).tolist()]
        layers = tuple(
            replace(
                layer,
                shares=choose_shares(problem.counts_SLE[:, ordinal], layer.placement, aim).shares or layer.shares,
            )
            for ordinal, (layer, aim) in enumerate(zip(plan.layers, aim_L, strict=True))
        )
        planned_SL = replay(problem.counts_SLE, placements, [layer.shares for layer in layers])
        estimate = with_planned(plan.estimate, planned_SL, placed_step_time(problem, planned_SL, placements))
        shared = replace(plan, layers=layers, estimate=estimate)
        require_sound(shared)
        return updated(compilation, plan=shared)
