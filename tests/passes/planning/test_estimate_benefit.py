"""The estimate pass needs loads that belong to the layers."""

import pytest

from craftc.errors import BadInput
from craftc.passes.base import PassContractError, Pipeline
from craftc.passes.planning.estimate_benefit import EstimateBenefit
from tests.passes.planning.compilations import compilation, pipeline


def test_loads_of_another_model_are_refused():
    other = compilation(experts=8).layers
    with pytest.raises(BadInput, match=r"loads have 16 experts per layer, layer layers.0 has 8"):
        pipeline("craft").run(compilation(layers=other))
    with pytest.raises(BadInput, match="loads have 3 layers, the model has 2"):
        pipeline("craft").run(compilation(layers=compilation().layers[:2]))


def test_missing_loads_break_the_contract():
    with pytest.raises(PassContractError, match="estimate_benefit needs loads"):
        pipeline("craft").run(compilation(loads=None))


def test_one_curve_per_layer_from_no_replicas_up():
    curves = Pipeline((EstimateBenefit("craft"),)).run(compilation())[0].curves
    assert curves is not None
    assert curves.candidates_C == (0, 1, 2, 4, 8)
    assert curves.balancedness_LC.shape == (3, 5)
    assert (curves.benefit_LC[:, 0] == 0).all()
    assert (curves.benefit_LC[:, -1] > 0).all()
