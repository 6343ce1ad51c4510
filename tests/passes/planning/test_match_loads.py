import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import run_checked
from craftc.passes.compilation import Compilation
from craftc.passes.planning.match_loads import MatchLoads

LAYERS = tuple(MoELayer(f"model.{name}", index, experts=4, expert_bytes=1) for index, name in enumerate("ab"))


def matched(shape: tuple[int, int, int], layer_names: tuple[str, ...] | None = None) -> Compilation:
    loads = LoadProfile.from_counts(np.ones(shape, dtype=np.int64), layer_names=layer_names, provenance="x.npz")
    return run_checked(MatchLoads(), Compilation(loads=loads, layers=LAYERS))


def test_loads_of_the_same_layers_or_without_names_match():
    assert matched((3, 2, 4), ("model.a", "model.b")).loads is not None
    assert matched((3, 2, 4)).loads is not None


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [
        ((3, 1, 4), None, r"x\.npz has 1 layers, the model has 2 MoE layers"),
        ((3, 2, 5), None, r"x\.npz has 5 experts, layer 0 \(model\.a\) of the model has 4"),
        ((3, 2, 4), ("model.a", "model.c"), r"layer 1 is model\.c, the model's layer 1 is model\.b"),
    ],
)
def test_other_loads_are_refused(shape: tuple[int, int, int], names: tuple[str, ...] | None, message: str):
    with pytest.raises(BadInput, match=message):
        matched(shape, names)
