"""Let copies take unequal shares of their expert's tokens in the layers in which unseen steps gain by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated
from craftc.passes.planning.writing.comparison import with_planned
from craftc.plans.verifier import require_sound
from craftc.solvers.replay import replay
from craftc.solvers.shares import choose_shares


@dataclass(frozen=True)
class ChooseShares(Pass):
    """Leaves placements unchanged."""

    name: ClassVar[str] = "choose_shares"
    needs: ClassVar[tuple[str, ...]] = ("loads", "plan")
    gives: ClassVar[tuple[str, ...]] = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        """The plan with shares in the layers that gain, and a new estimate; other layers keep the shares that they
        have.

        Raises VerificationFailed for a bug here.
        """
        plan, loads = compilation.plan, compilation.loads
        assert plan.estimate is not None
        layers = tuple(
            replace(layer, shares=choose_shares(loads.counts_SLE[:, ordinal], layer.placement).shares or layer.shares)
            for ordinal, layer in enumerate(plan.layers)
        )
        shares_L = [layer.shares for layer in layers]
        planned_L = replay(loads.counts_SLE, [layer.placement for layer in layers], shares_L).mean(axis=0)
        estimate = with_planned(plan.estimate, planned_L.tolist())
        shared = replace(plan, layers=layers, estimate=estimate)
        require_sound(shared)
        return updated(compilation, plan=shared)
