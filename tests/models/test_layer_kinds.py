"""Which layers see all of a context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftc.errors import BadInput, CraftcError, Unsupported
from craftc.models.layer_kinds import layer_kinds

LETTERS = {"f": "full", "w": "window", "i": "indexed", "r": "recurrent", "n": "none"}
KNOWN: list[tuple[dict[str, Any], str]] = [
    ({}, "ffffff"),
    ({"layer_types": ["sliding_attention", "full_attention"] * 3}, "wfwfwf"),
    ({"layer_types": ["chunked_attention"] * 5 + ["full_attention"]}, "wwwwwf"),
    ({"layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba", "moe"]}, "rnfnrn"),
    ({"hybrid_override_pattern": "MEM*-E"}, "rnrfnn"),
    ({"linear_attn_config": {"full_attn_layers": [4, 6]}}, "rrrfrf"),
    ({"hybrid_layer_pattern": [0, 1, 1, 1, 1, 0], "sliding_window": 8}, "fwwwwf"),
    ({"attn_type_list": [0, 0, 1, 0, 0, 1]}, "rrfrrf"),
    ({"attn_layer_period": 3, "attn_layer_offset": 1}, "rfrrfr"),
    ({"full_attn_idxs": [2, 5]}, "rrfrrf"),
    ({"full_attention_interval": 2}, "rfrfrf"),
    ({"sliding_window": 8}, "wwwwww"),
    ({"sliding_window": 8, "sliding_window_pattern": 3}, "wwfwwf"),
    ({"sliding_window": 8, "sliding_window_pattern": "LLLG"}, "wwwfwf"),
    ({"sliding_window": None, "sliding_window_pattern": 3}, "ffffff"),
    ({"sliding_window": 8, "use_sliding_window": False}, "ffffff"),
    ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 4}, "ffffww"),
    ({"attention_chunk_size": 8, "no_rope_layers": [1, 1, 0, 1, 1, 0]}, "wwfwwf"),
    ({"attention_chunk_size": 8, "no_rope_layers": []}, "wwwfww"),
    ({"no_rope_layers": [1, 1, 0, 1, 1, 0]}, "ffffff"),
    ({"index_topk": 4}, "iiiiii"),
    ({"index_topk": 4, "layer_types": ["indexed_attention", "sliding_attention"] * 3}, "iwiwiw"),
]


@pytest.mark.parametrize(("config", "kinds"), KNOWN, ids=[kinds + " " + "+".join(config) for config, kinds in KNOWN])
def test_what_configs_say(config: dict[str, Any], kinds: str) -> None:
    assert layer_kinds(config, 6, None) == [LETTERS[letter] for letter in kinds]


def test_lists_may_go_on_with_multi_token_prediction() -> None:
    assert layer_kinds({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, 3, None) == ["full"] * 3


def test_an_architecture_whose_layers_differ_must_say_which() -> None:
    with pytest.raises(BadInput, match="hybrid_layer_pattern is missing"):
        layer_kinds({"sliding_window": 8}, 6, "hybrid_layer_pattern")


@pytest.mark.parametrize("field", [field for config, _ in KNOWN for field in config if not field.endswith("window")])
@pytest.mark.parametrize("value", [-1, 2.5, "x", ["x"] * 6, [True], {"a": 1}, [float("nan")] * 6, [[]] * 6, [{}] * 6])
def test_nonsense_is_refused_by_name_or_says_nothing(field: str, value: object) -> None:
    config = {"attention_chunk_size": 8, field: value}
    names = "full_attn_layers" if field == "linear_attn_config" else field
    try:
        found = len(layer_kinds(config, 6, None))
    except CraftcError as error:
        found = 6 if names in str(error) else 0
    assert found == 6


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(Unsupported, match="'novel'"):
        layer_kinds({"layer_types": ["novel"] * 6}, 6, None)


@given(layers=st.integers(1, 80), every=st.integers(1, 90))
def test_one_layer_of_each_group_sees_all(layers: int, every: int) -> None:
    kinds = layer_kinds({"full_attention_interval": every}, layers, None)
    assert len(kinds) == layers
    assert kinds.count("full") == layers // every
