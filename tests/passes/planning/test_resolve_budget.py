from craftc.budget import parse_budget
from craftc.models.moe_layer import MoELayer
from craftc.passes.base import run_checked
from craftc.passes.compilation import Compilation
from craftc.passes.planning.resolve_budget import ResolveBudget
from craftc.planning_options import PlanningRequest
from craftc.topology import Topology

LAYERS = (MoELayer("layer", 0, experts=8, expert_bytes=1000),)


def test_bytes_of_the_budget_on_this_topology():
    before = Compilation(layers=LAYERS, request=PlanningRequest(Topology(4), parse_budget("25%")))
    assert run_checked(ResolveBudget(), before).budget_bytes == 2000
