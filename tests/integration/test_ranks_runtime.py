"""The runtime on 1, 2, 4 and 8 real gloo ranks: figures of `rank_checks`, which runs everything in one start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.forked_ranks import run_ranks
from tests.integration.families import replaceable_families
from tests.integration.rank_checks import main

SIZES = ("1", "2", "4", "8")
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> list[dict[str, Any]]:
    """By rank and size of its group. Checks without figures fail in the ranks themselves."""
    result = tmp_path_factory.mktemp("ranks") / "measured.json"
    run_ranks(main, 8, LIMIT_S, result)
    return json.loads(result.read_text())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", replaceable_families())
def test_outputs_are_the_original_models(measured, size, family):
    assert max(rank[size]["families"][family] for rank in measured) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_outputs_are_the_originals_up_to_one_rounding(measured, size):
    assert max(rank[size]["bfloat16"] for rank in measured) <= 2**-7


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_all_tokens_together(measured, size):
    assert max(difference for rank in measured for difference in rank[size]["gradients"].values()) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_every_rank_executes_what_was_sent_to_it(measured, size):
    for rank in measured:
        executed, sent = rank[size]["tokens"]
        assert executed == sent
    assert sum(rank["8"]["tokens"][0] for rank in measured) == 2 * 20 * sum(range(8))
