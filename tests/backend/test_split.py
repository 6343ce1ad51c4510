from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from craftc.backend.split import CompiledDense, compile_around


class Twice(nn.Module):
    def forward(self, value):
        return value * 2


class Chain(nn.Module):
    """Two calls with arithmetic before, between and after them; the first value is read by every part."""

    def __init__(self):
        super().__init__()
        self.first = Twice()
        self.second = Twice()

    def forward(self, value):
        start = value + 1
        middle = self.first(start) + start
        return self.second(middle) - start


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, Twice)


def test_only_what_lies_between_the_calls_is_compiled():
    graphs: list[fx.GraphModule] = []

    def inner(gm, example_inputs):
        graphs.append(gm)
        return gm

    gm = fx.GraphModule(Chain(), LeafTracer().trace(Chain()))
    whole = compile_around(gm, ("first", "second"), inner)
    value = torch.arange(3.0)
    assert torch.equal(whole(value), Chain()(value))
    assert len(graphs) == 3
    assert sum(isinstance(piece, CompiledDense) for piece in whole.children()) == 3
    assert not any(node.op == "call_module" for graph in graphs for node in graph.graph.nodes)
    assert all(isinstance(graph.graph.output_node().args[0], tuple) for graph in graphs)


@pytest.mark.parametrize(
    "forward",
    [
        lambda twice, value: (twice(value), value),
        lambda twice, value: twice(value.add_(1)) - 1,
        lambda twice, value: (twice(value), value.mul_(2))[0],
        lambda twice, value: torch.topk(twice(value), 2)[0],
        lambda twice, value: {"a": twice(value) + 1, "b": [value + 1, None, 3]},
        lambda twice, value: (twice(value), value + 1)[1],
        lambda twice, value: value + 1,
    ],
    ids=["an input", "in place", "nobody reads it", "several values", "nested", "the call is not read", "no call"],
)
def test_every_compiled_part_returns_a_tuple_whatever_it_computes(forward):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice = Twice()

        def forward(self, value):
            return forward(self.twice, value)

    graphs: list[fx.GraphModule] = []

    def inner(gm, example_inputs):
        graphs.append(gm)
        return gm

    gm = fx.GraphModule(Model(), LeafTracer().trace(Model()))
    whole = compile_around(gm, ("twice",), inner)
    assert str(whole(torch.arange(3.0))) == str(Model()(torch.arange(3.0)))
    assert all(isinstance(graph.graph.output_node().args[0], tuple) for graph in graphs)


def test_a_part_without_calls_is_compiled_whole():
    gm = fx.symbolic_trace(Twice())
    whole = compile_around(gm, (), lambda gm, example_inputs: gm)
    assert torch.equal(whole(torch.ones(2)), torch.full((2,), 2.0))
