"""Make sure that loads belong to the layers they are used for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.loads.match import check_loads_fit
from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation, require_moe_layers


@dataclass(frozen=True)
class MatchLoads(Pass):
    """Changes nothing; loads may come from a file, another run, or another model by mistake."""

    name: ClassVar[str] = "match_loads"
    needs: ClassVar[tuple[str, ...]] = ("loads", "layers")
    gives: ClassVar[tuple[str, ...]] = ("loads",)

    def run(self, compilation: Compilation) -> Compilation:
        """Raises BadInput naming the first layer that differs, or where there are none."""
        require_moe_layers(compilation)
        check_loads_fit(compilation.loads, compilation.layers, "model")
        return compilation
