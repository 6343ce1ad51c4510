"""Check that loads belong to the layers that they are used for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.loads.match import check_loads_fit
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, require_moe_layers


@dataclass(frozen=True)
class MatchLoads(Pass):
    """Only checks: loads may come from a file, another run, or, by mistake, another model."""

    name: ClassVar[str] = "match_loads"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers")
    gives: ClassVar[tuple[str, ...]] = ("loads",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput naming the first layer that differs, or if there are no layers."""
        require_moe_layers(compilation)
        check_loads_fit(compilation.loads, compilation.layers, "model")
        return compilation
