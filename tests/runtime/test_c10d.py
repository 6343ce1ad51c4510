"""On one rank; several are in tests/integration/test_ranks_runtime.py. Axes: T tokens, K experts per token, R rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craftc.errors import RankFailed
from craftc.runtime.replicated_experts import distributed_experts
from tests.runtime.layers import experts_of, routing
from tests.runtime.plans import random_layer


def test_dispatch_compute_combine_is_the_whole_call(one_rank):
    experts = experts_of("mixtral")
    replicated = distributed_experts(experts, random_layer("x", 8, 1, 0), one_rank)
    hidden_TH, index_TK, weight_TK = routing(experts, 9)
    dispatcher: Any = replicated.dispatcher
    rows_RH, local_R, tokens_C, way_back = dispatcher.dispatch(hidden_TH, replicated.choice(index_TK))
    assert rows_RH.shape == (18, 32)
    assert torch.equal(local_R, local_R.sort().values)
    assert torch.equal(tokens_C, torch.bincount(local_R, minlength=8))
    output_RH = dispatcher.compute(replicated.experts, rows_RH, local_R, weight_TK.dtype)
    output_TH = dispatcher.combine(output_RH, weight_TK, hidden_TH.dtype, way_back)
    torch.testing.assert_close(output_TH, experts(hidden_TH, index_TK, weight_TK), rtol=1e-5, atol=1e-5)


def test_without_tokens_gradients_are_zeros_not_missing(one_rank):
    experts = experts_of("mixtral")
    replicated = distributed_experts(experts, random_layer("x", 8, 1, 0), one_rank)
    hidden_TH, index_TK, weight_TK = routing(experts, 0)
    replicated(hidden_TH, index_TK, weight_TK).sum().backward()
    for parameter in replicated.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_a_broken_exchange_names_the_layer(one_rank, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nmore")

    experts = experts_of("mixtral")
    replicated = distributed_experts(experts, random_layer("mlp.experts", 8, 1, 0), one_rank)
    monkeypatch.setattr("torch.distributed.all_to_all_single", broken)
    with pytest.raises(RankFailed, match=r"token counts in layer mlp\.experts failed.*\(Connection") as caught:
        replicated(*routing(experts, 3))
    assert "\n" not in str(caught.value)
