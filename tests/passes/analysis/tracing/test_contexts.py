"""Blocks with autocast or without gradients are in the graph; random numbers drawn while tracing are refused."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from craftc.errors import Unsupported
from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.contexts import enter_autocast, enter_no_grad, leave
from examples.plain_moe.model import MoE
from tests.passes.analysis.tracing.test_guards import H, Steered, traced


class Autocast(Steered):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(H, H)

    def steered(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = x @ self.mix.weight
            with torch.autocast("cpu", enabled=False):
                x = x.float() @ self.mix.weight
            return (x @ self.mix.weight).float()


class WithoutGradients(Steered):
    def steered(self, x):
        with torch.no_grad():
            scale = x.mean()
        return x * scale


class DrawsWithTorch(Steered):
    def steered(self, x):
        return x * torch.rand(H)


class DrawsWithPython(Steered):
    def steered(self, x):
        return x * random.random()


class DrawsInTheGraph(Steered):
    def steered(self, x):
        return x + torch.rand_like(x)


def test_autocast_is_not_lost():
    model, graph = traced(Autocast, 2, 6)
    x = torch.randn(3, 5, H)
    assert torch.equal(graph(x=x), model(x=x))
    functions = [node.target for node in graph.graph.nodes if node.target in (enter_autocast, leave)]
    assert functions == [enter_autocast, enter_autocast, leave, leave]
    assert not torch.is_autocast_enabled("cpu")


def test_a_block_without_gradients_stays_one():
    model, graph = traced(WithoutGradients, 2, 6)
    assert enter_no_grad in [node.target for node in graph.graph.nodes]
    gradients = []
    for each in (model, graph):
        x = torch.ones(2, 6, H, requires_grad=True)
        each(x=x).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [DrawsWithTorch, DrawsWithPython])
def test_numbers_drawn_while_tracing_would_be_the_same_on_every_call(kind):
    with pytest.raises(Unsupported, match="draws random numbers while it is traced"):
        traced(kind, 2, 6)


def test_numbers_drawn_by_the_graph_are_drawn_anew():
    _, graph = traced(DrawsInTheGraph, 2, 6)
    x = torch.randn(2, 6, H)
    assert not torch.equal(graph(x=x), graph(x=x))


def test_tracing_uses_up_no_random_numbers():
    model = nn.Sequential(MoE(0.0))
    state = torch.get_rng_state()
    trace(model, {"input": torch.ones(2, 5, H)})
    assert torch.equal(torch.get_rng_state(), state)
