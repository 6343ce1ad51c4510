"""`passes/` and `solvers/` can be imported from the repository's root by their bare names, which makes second classes:
`solvers.problem.PlanningProblem is not craftc.solvers.problem.PlanningProblem`. Nobody may do so."""

from __future__ import annotations

import sys


def second_names() -> list[str]:
    """Imported modules that are known under a name other than `craftc.*`."""
    return sorted(name for name in sys.modules if name.partition(".")[0] in ("passes", "solvers"))
