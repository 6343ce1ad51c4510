"""Turn the budget that the user wrote into bytes: possible once layers and topology are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.budget import resolve_budget
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, updated


@dataclass(frozen=True)
class ResolveBudget(Pass):
    """Needs no model: layers may come from loads."""

    name: ClassVar[str] = "resolve_budget"
    needs: ClassVar[tuple[str, ...]] = ("request", "layers")
    gives: ClassVar[tuple[str, ...]] = ("budget_bytes",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput or Infeasible, see `craftc.budget.resolve_budget`."""
        request = compilation.request
        return updated(compilation, budget_bytes=resolve_budget(request.budget, compilation.layers, request.topology))
