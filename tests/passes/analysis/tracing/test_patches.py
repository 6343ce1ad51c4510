"""Builtins see example values of proxies while tracing, assignments to buffers are in the graph, and all is undone."""

from __future__ import annotations

import builtins

import pytest
import torch
from torch import Tensor

from craftc.errors import Unsupported
from tests.passes.analysis.tracing import test_guards
from tests.passes.analysis.tracing.test_guards import H, Steered, traced


class ChecksKinds(Steered):
    def steered(self, x):
        size = x.shape[0]
        assert isinstance(x, torch.Tensor)
        assert isinstance(size, int)
        assert not isinstance(size, (float, str))
        return x * 2 if isinstance(x, (list, Tensor)) else x


class Rounds(Steered):
    def steered(self, x):
        capacity = int(1.25 * x.shape[0] * x.shape[1] / 4)
        return x * max(capacity, 4) * float(x.shape[0]) * abs(round(x.shape[1] / 2))


class ReplacesABuffer(Steered):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(H))

    seen: Tensor

    def steered(self, x):
        self.seen = 0.5 * self.seen + x.mean((0, 1))
        return x + self.seen


class ReplacesABufferByAnotherShape(ReplacesABuffer):
    def steered(self, x):
        self.seen = x
        return x + self.seen


@pytest.mark.parametrize("kind", [ChecksKinds, Rounds])
def test_builtins(kind):
    model, graph = traced(kind, 2, 6)
    for shape in ((2, 6), (3, 5)):
        x = torch.randn(*shape, H)
        torch.testing.assert_close(graph(x=x), model(x=x))


def test_a_buffer_that_is_replaced_moves_in_the_graph_as_in_the_model():
    model, graph = traced(ReplacesABuffer, 2, 6)
    assert not model.seen.any(), "tracing leaves it alone"
    x = torch.randn(2, 6, H)
    first = [graph(x=x), graph(x=x)]
    model.seen = torch.zeros(H)
    torch.testing.assert_close(first, [model(x=x), model(x=x)])


def test_a_buffer_that_changes_its_shape_is_refused():
    with pytest.raises(Unsupported, match=r"seen has shape.*32.*and would get.*2, 6"):
        traced(ReplacesABufferByAnotherShape, 2, 6)


def test_everything_is_undone():
    traced(Rounds, 2, 6)
    assert not {"len", "range", "int", "isinstance", "max"} & set(vars(test_guards))
    assert torch.nn.Module.__setattr__.__module__ == "torch.nn.modules.module"
    assert builtins.len is len
