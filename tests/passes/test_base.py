from dataclasses import dataclass

import pytest
import torch
from torch import fx, nn

from craftc.budget import parse_budget
from craftc.errors import BadInput, VerificationFailed
from craftc.passes.base import Pass, PassContractError, Pipeline
from craftc.passes.compilation import Compilation, updated
from craftc.planning_options import PlanningOptions, PlanningRequest
from craftc.topology import Topology
from tests.plans.sample_plans import plan_of, toy_layers


@dataclass(frozen=True)
class Capture(Pass):
    name = "capture"
    needs = ("model",)
    gives = ("graph",)
    changes_graph = True

    def run(self, compilation: Compilation) -> Compilation:
        return updated(compilation, graph=fx.symbolic_trace(compilation.model))


@dataclass(frozen=True)
class Count(Pass):
    """Claims to analyse; `meddle` says what it does to the graph instead."""

    name = "count"
    needs = ("graph",)
    gives = ()
    meddle: str = ""

    def run(self, compilation: Compilation) -> Compilation:
        graph = compilation.graph
        if self.meddle == "node":
            graph.graph.inserting_before(next(iter(graph.graph.nodes)))
            graph.graph.placeholder("extra")
        if self.meddle == "weight":
            with torch.no_grad():
                next(graph.parameters()).add_(1)
        return compilation


@dataclass(frozen=True)
class Forgetful(Pass):
    name = "forgetful"
    needs = ()
    gives = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        return compilation


@dataclass(frozen=True)
class Misplace(Pass):
    """Gives a plan in which an expert has no copy."""

    name = "misplace"
    needs = ()
    gives = ("plan",)

    def run(self, compilation: Compilation) -> Compilation:
        return updated(compilation, plan=plan_of([((0, 1), (1, 2))], toy_layers()[:1]))


def start() -> Compilation:
    return Compilation(model=nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_passes_run_in_order_and_are_timed():
    seen: list[str] = []
    result = Pipeline((Capture(), Count(meddle=""))).run(start(), seen.append)
    assert result.knows("graph")
    assert [timing.name for timing in result.timings] == seen == ["capture", "count"]
    assert [timing.printed for timing in result.timings] == ["capture()", "count(meddle='')"]
    assert all(timing.seconds >= 0 for timing in result.timings)


def test_a_pipeline_prints_its_passes_with_their_options():
    assert str(Pipeline((Capture(), Count(meddle="node")))) == "capture()\ncount(meddle='node')"


def test_a_pipeline_that_plans_says_so_first_and_every_pass_knows_it():
    request = PlanningRequest(Topology(8, 2), parse_budget("25%"), PlanningOptions(effort="high"))
    pipeline = Pipeline((Capture(),), request)
    first, second = str(pipeline).splitlines()
    assert first.startswith("request(gpus=8, nodes=2, budget='25%', planner='craftc', ")
    assert "effort='high'" in first
    assert second == "capture()"
    assert pipeline.until("capture").run(start()).request is request


def test_a_pipeline_stops_after_the_named_pass():
    assert Pipeline((Capture(), Count())).until("capture").passes == (Capture(),)
    with pytest.raises(BadInput, match="no pass 'place'"):
        Pipeline((Capture(),)).until("place")


def test_a_pass_whose_needs_are_missing_is_refused():
    with pytest.raises(PassContractError, match="count needs graph"):
        Pipeline((Count(),)).run(start())


def test_a_pass_that_does_not_give_what_it_promises_is_refused():
    with pytest.raises(PassContractError, match="forgetful did not give plan"):
        Pipeline((Forgetful(),)).run(start())


@dataclass(frozen=True)
class Disorder(Pass):
    """Moves the output before what it reads."""

    name = "disorder"
    needs = ("graph",)
    gives = ("graph",)
    changes_graph = True

    def run(self, compilation: Compilation) -> Compilation:
        nodes = list(compilation.graph.graph.nodes)
        nodes[0].prepend(nodes[-1])
        return compilation


def test_the_graph_is_linted_after_every_pass():
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        Pipeline((Capture(), Disorder())).run(start())


def test_the_plan_is_verified_after_the_pass_that_made_it():
    with pytest.raises(VerificationFailed, match="expert 3 has no copy"):
        Pipeline((Misplace(),)).run(start())


@pytest.mark.parametrize("meddle", ["node", "weight"])
def test_an_analysis_pass_that_changes_the_graph_is_caught(meddle: str):
    with pytest.raises(PassContractError, match="count changed the graph"):
        Pipeline((Capture(), Count(meddle=meddle))).run(start())
