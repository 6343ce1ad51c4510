"""The allocation pass: its solver, its time limit, and the honest no."""

import pytest

from craftc.errors import Infeasible
from tests.passes.planning.compilations import planned


def test_the_solver_is_the_one_asked_for():
    assert planned("craft", solver="cbc", time_limit_s=5.0).allocation.solver.startswith("cbc")
    assert planned("craft", solver="highs").allocation.solver.startswith("highs")
    assert planned("craft").allocation.solver in ("greedy", "dynamic program")


def test_the_honest_no_of_eplb():
    with pytest.raises(Infeasible, match="give a budget of 900 bytes"):
        planned("eplb", experts=13, budget="899B")
