"""The estimate pass, and what it needs."""

import pytest

from craftc.passes.base import PassContractError, run_checked
from craftc.passes.compilation import Compilation
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from tests.passes.planning.compilations import compilation, random_loads


def test_without_a_problem_there_is_nothing_to_estimate():
    with pytest.raises(PassContractError, match="estimate_benefit needs request, problem"):
        run_checked(EstimateBenefit(), Compilation(loads=random_loads()))


def test_one_curve_per_layer_from_no_replicas_up():
    curves = run_checked(EstimateBenefit(), compilation("craft")).curves
    assert curves.candidates_C == (0, 1, 2, 4, 8)
    assert curves.balancedness_LC.shape == (3, 5)
    assert (curves.benefit_LC[:, 0] == 0).all()
    assert (curves.benefit_LC[:, -1] > 0).all()
