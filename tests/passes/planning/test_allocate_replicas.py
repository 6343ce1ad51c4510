"""The allocation pass: its solver, its time limit, and the honest no."""

import pytest

from craftc.errors import BadInput, Infeasible
from craftc.passes.base import Pipeline
from craftc.passes.planning.allocate_replicas import AllocateReplicas
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from tests.passes.planning.compilations import compilation, pipeline


def test_the_solver_is_chosen_and_its_time_limited():
    passes = (EstimateBenefit("craft"), AllocateReplicas("craft", "cbc", 5.0))
    allocation = Pipeline(passes).run(compilation())[0].allocation
    assert allocation is not None
    assert allocation.solver.startswith("cbc")
    with pytest.raises(BadInput, match="choose highs or cbc"):
        Pipeline((EstimateBenefit("craft"), AllocateReplicas("craft", "scip"))).run(compilation())  # type: ignore[arg-type]


def test_the_honest_no_of_eplb():
    with pytest.raises(Infeasible, match="give a budget of 900 bytes"):
        pipeline("eplb").run(compilation(experts=13, budget_bytes=899))
