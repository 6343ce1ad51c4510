"""Compile the search, once per machine: its own line of progress, since it may take ten seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from craftc.passes.base import Pass
from craftc.passes.compilation import Compilation
from craftc.solvers.search.local_search import searcher


@dataclass(frozen=True)
class CompileSearch(Pass):
    """Loads in a moment what was compiled before."""

    name: ClassVar[str] = "compile_search"
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()

    def run(self, compilation: Compilation) -> Compilation:
        """Warns, once, if numba cannot be used."""
        searcher()
        return compilation
