"""Blocks that fx cannot trace become a routing node and an experts node with the model's outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.trace import trace
from craftc.passes.pipelines import analysed
from craftc.runtime.block_routing import BlockRouting
from tests.passes.analysis.tracing.block_styles import BLOCK_STYLES
from tests.passes.analysis.tracing.dispatch_styles import EXPERTS, TOP_K, tokens
from tests.passes.analysis.tracing.handwritten_styles import COUNTING_STYLES, CountsWithShared, TopP, UniqueLoop
from tests.passes.analysis.tracing.style_table import build


@pytest.mark.parametrize("style", [*COUNTING_STYLES, *BLOCK_STYLES], ids=lambda style: style.__name__)
def test_every_style_has_its_two_layers_and_the_models_outputs(style):
    model: Any = build(style)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph_module, near_misses = trace(model, tokens(2, 16))
    found, missed = find_moe_layers(model, graph_module)
    assert near_misses + missed == ()
    assert [layer.experts for _, layer in found] == [EXPERTS, EXPERTS]
    with torch.no_grad():
        for inputs in (tokens(2, 16), tokens(3, 11, seed=5), tokens(1, 2, seed=6)):
            torch.testing.assert_close(graph_module(**inputs), model(**inputs), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    outside = {name for name, _ in graph_module.named_parameters() if ".experts." not in name}
    assert outside <= set(weights), "parameters keep their names"


def test_gradients_are_the_models():
    model: Any = build(CountsWithShared)
    graph_module, _ = trace(model, tokens(2, 16))
    inputs = tokens(3, 11, seed=5)
    model(**inputs).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    graph_module(**inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_a_token_without_enough_experts_is_routed_to_no_expert():
    model = build(TopP)
    graph_module, _ = trace(model, tokens(2, 16))
    node = next(node for node, _ in find_moe_layers(model, graph_module)[0])
    seen: list[torch.Tensor] = []
    graph_module.get_submodule(str(node.target)).register_forward_hook(lambda _, args, output: seen.extend(args))
    graph_module(**tokens(2, 16))
    _, index_TK, weight_TK = seen
    assert torch.equal(index_TK == EXPERTS, weight_TK == 0)
    assert (index_TK == EXPERTS).any()
    assert (index_TK < EXPERTS).any(1).all()


def test_the_whole_model_may_be_one_block():
    torch.manual_seed(0)
    block = UniqueLoop().eval()
    graph_module, near_misses = trace(block, tokens(2, 16))
    ((node, layer),), _ = find_moe_layers(block, graph_module)
    assert (layer.name, layer.top_k, near_misses) == ("experts", TOP_K, ())
    assert str(node.target) == "experts"
    torch.testing.assert_close(graph_module(**tokens(1, 3)), block(**tokens(1, 3)))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = UniqueLoop()

    def forward(self, x):
        return self.block(self.block(x))


def test_a_block_that_is_called_twice_is_reported():
    model = CalledTwice().eval()
    graph_module, (miss,) = trace(model, tokens(2, 16))
    assert miss.name == "block.experts"
    assert miss.reason == "its block is called 2 times in one forward; a layer's copies are planned for one call"
    torch.testing.assert_close(graph_module(**tokens(1, 3)), model(**tokens(1, 3)))


def test_a_traced_block_is_not_read():
    from tests.passes.analysis.tracing.dispatch_styles import WhereIndexAdd

    graph_module, _ = trace(build(WhereIndexAdd), tokens(2, 16))
    assert not any(isinstance(module, BlockRouting) for module in graph_module.modules())


def test_other_dtypes():
    model = build(CountsWithShared).to(torch.bfloat16)
    inputs = pytree.tree_map(lambda tensor: tensor.to(torch.bfloat16), tokens(2, 16))
    graph_module, near_misses = trace(model, inputs)
    assert near_misses == ()
    torch.testing.assert_close(graph_module(**inputs), model(**inputs))


def test_the_router_is_the_routing_of_the_block():
    from craftc.models.workload import WorkloadInputs

    layers = analysed(build(UniqueLoop), WorkloadInputs(tokens(2, 16))).layers
    assert [layer.router for layer in layers] == ["layers.0.routing", "layers.1.routing"]
