"""Turn the budget as the user wrote it into bytes: possible once layers and topology are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from craftc.budget import parse_budget, resolve_budget
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation


@dataclass(frozen=True)
class ResolveBudget(Pass):
    """Needs no model: layers may come from loads."""

    name: ClassVar[str] = "resolve_budget"
    needs: ClassVar[tuple[str, ...]] = ("layers", "topology", "budget_requested")
    gives: ClassVar[tuple[str, ...]] = ("budget_bytes",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput or Infeasible, see `craftc.budget.resolve_budget`."""
        assert compilation.layers is not None
        assert compilation.topology is not None
        assert compilation.budget_requested is not None
        budget = parse_budget(compilation.budget_requested)
        return replace(compilation, budget_bytes=resolve_budget(budget, compilation.layers, compilation.topology))
