from dataclasses import dataclass, replace

import pytest
import torch
from torch import fx, nn

from craftc.errors import BadInput, VerificationFailed
from craftc.passes.base import Pass, PassContractError, Pipeline
from craftc.passes.compilation import Compilation
from tests.plans.sample_plans import plan_of, toy_layers


@dataclass(frozen=True)
class Capture(Pass):
    name = "capture"
    needs = ("model",)
    gives = ("graph",)
    changes_graph = True

    def run(self, compilation: Compilation) -> Compilation:
        assert compilation.model is not None
        return replace(compilation, graph=fx.symbolic_trace(compilation.model))


@dataclass(frozen=True)
class Count(Pass):
    """Claims to analyse; `meddle` says what it does to the graph instead."""

    name = "count"
    needs = ("graph",)
    gives = ()
    meddle: str = ""

    def run(self, compilation: Compilation) -> Compilation:
        graph = compilation.graph
        assert graph is not None
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
        return replace(compilation, plan=plan_of([((0, 1), (1, 2))], toy_layers()[:1]))


def start() -> Compilation:
    return Compilation(model=nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_passes_run_in_order_and_are_timed():
    seen: list[str] = []
    result, timings = Pipeline((Capture(), Count()), on_pass=lambda one: seen.append(one.name)).run(start())
    assert result.graph is not None
    assert [timing.name for timing in timings] == seen == ["capture", "count"]
    assert all(timing.seconds >= 0 for timing in timings)


def test_a_pipeline_prints_its_passes_with_their_options():
    assert str(Pipeline((Capture(), Count(meddle="node")))) == "capture()\ncount(meddle='node')"


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
        assert compilation.graph is not None
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
