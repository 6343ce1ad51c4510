"""The table of `make test-families` says what is true, shown on three architectures; the whole of it is opt-in."""

from __future__ import annotations

import pytest

from tests.families.row import rows
from tests.families.tiny import architectures, moe_sources


@pytest.mark.parametrize("source", ["mixtral", "longcat_flash"])
def test_an_architecture_is_optimised(source):
    (row,) = rows(source)
    assert row.optimized, row.reason
    assert row.found == row.layers > 0


def test_every_moe_architecture_of_transformers_is_in_the_table():
    sources = moe_sources()
    assert {"mixtral", "deepseek_v3", "gpt_oss", "qwen3_vl_moe", "jetmoe", "dbrx"} < set(sources)
    assert [kind.__name__ for kind in architectures("qwen3_moe")] == ["Qwen3MoeForCausalLM"]
