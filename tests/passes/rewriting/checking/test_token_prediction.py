"""Axes: E experts."""

from __future__ import annotations

import pytest
import torch

from craftc.errors import VerificationFailed
from craftc.passes.rewriting.checking.token_prediction import RoutedTokens, token_deviation
from craftc.plans.replication_plan import LayerPlan
from craftc.runtime.slot_table import slot_table

TABLE = slot_table(LayerPlan("x", 0, 2, 1, 1, 1, ((0, 1), (0,))))


def routed(*tokens_E: int, calls: int = 1) -> RoutedTokens:
    return RoutedTokens(torch.tensor(tokens_E), calls)


def test_exact_shares_deviate_by_nothing():
    assert token_deviation("x", TABLE, {0: 30, 1: 10}, routed(20, 20)) == 0


def test_deviation_is_a_fraction_of_the_mean_gpu():
    assert token_deviation("x", TABLE, {0: 31, 1: 10}, routed(21, 20)) == pytest.approx(0.5 / 20.5)


def test_only_rounding_is_allowed():
    token_deviation("x", TABLE, {0: 33, 1: 7}, routed(20, 20, calls=3))
    token_deviation("x", TABLE, {0: 33, 1: 7}, routed(20, 20), senders=3)
    with pytest.raises(VerificationFailed, match=r"layer x: GPU 0 got 33 tokens in 1 calls, the plan predicts 30\.0"):
        token_deviation("x", TABLE, {0: 33, 1: 7}, routed(20, 20))


def test_no_tokens_at_all():
    assert token_deviation("x", TABLE, {0: 0, 1: 0}, routed(0, 0)) == 0
