import pytest

from craftc.errors import BadInput
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import run_checked
from craftc.passes.compilation import Compilation
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.topology import Topology

LAYERS = (MoELayer("layer", 0, experts=8, expert_bytes=1000),)


def test_bytes_of_the_budget_on_this_topology():
    before = Compilation(layers=LAYERS, topology=Topology(4), budget_requested="25%")
    assert run_checked(ResolveBudget(), before).budget_bytes == 2000


def test_a_budget_that_cannot_be_read_is_the_users_mistake():
    with pytest.raises(BadInput, match="ambiguous"):
        run_checked(ResolveBudget(), Compilation(layers=LAYERS, topology=Topology(4), budget_requested="8G"))
