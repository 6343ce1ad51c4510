from __future__ import annotations

import pytest
import torch
from torch import nn

from craftc.deployment.owner_graphs import owner_graphs
from craftc.errors import BadInput
from examples.plain_moe.model import MoE, build_model, calibration_inputs

LISTS = ["blocks.1.mlp.experts", "blocks.3.mlp.experts"]


def test_graphs_compute_what_their_owners_do_for_other_sizes():
    model = build_model()
    graphs = owner_graphs(model, LISTS, next(iter(calibration_inputs())))
    assert list(graphs) == LISTS
    hidden = torch.randn(3, 7, 32)
    for path, graph in graphs.items():
        owner = model.get_submodule(path.rpartition(".")[0])
        torch.testing.assert_close(graph(hidden), owner(hidden), rtol=1e-5, atol=1e-5)
        assert set(graph.get_submodule("experts").parameters()) == set(model.get_submodule(path).parameters())


def test_the_model_itself_cannot_be_replaced_within_itself():
    with pytest.raises(BadInput, match=r"the model itself dispatches.*craftc\.optimize"):
        owner_graphs(MoE(1.0), ["experts"], {"x": torch.zeros(1, 2, 32)})


def test_an_owner_that_is_never_called_is_named():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe = MoE(1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(BadInput, match="never calls moe, which dispatches"):
        owner_graphs(Idle(), ["moe.experts"], {"x": torch.zeros(1, 2, 32)})
