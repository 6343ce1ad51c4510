"""Fields of one decoder layer."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import BadInput
from craftc.models.layer_fields import layer_fields

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}


def sizes(config: dict[str, Any], index: int, kind: Any) -> tuple[int, int, int]:
    own = layer_fields(config, index, kind)
    return own["num_attention_heads"], own["num_key_value_heads"], own["head_dim"]


def test_layers_are_alike_unless_something_says_otherwise() -> None:
    assert sizes(HEADS, 0, "full") == sizes(HEADS, 7, "window") == (8, 4, 64)


def test_windows_may_have_heads_of_their_own() -> None:
    config = HEADS | {"swa_num_key_value_heads": 2, "swa_head_dim": 32, "num_sliding_attention_heads": 6}
    assert sizes(config, 0, "window") == (6, 2, 32)
    assert sizes(config, 0, "full") == (8, 4, 64)
    other = HEADS | {"attention_other_setting": {"num_attention_heads": 12, "head_dim": 16}}
    assert sizes(other, 0, "window") == (12, 4, 16)
    assert sizes(other, 0, "full") == (8, 4, 64)


def test_layers_that_see_all_may_have_heads_of_their_own_whose_keys_are_values() -> None:
    config = HEADS | {"global_head_dim": 128, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
    assert sizes(config, 0, "full") == (8, 1, 128)
    assert sizes(config, 0, "window") == (8, 4, 64)
    assert layer_fields(config, 0, "full")["attention_k_eq_v"] is True
    assert layer_fields(config, 0, "window")["attention_k_eq_v"] is False
    assert sizes(config | {"attention_k_eq_v": False}, 0, "full") == (8, 4, 128)


def test_each_layer_may_have_fields_of_its_own() -> None:
    config = HEADS | {"per_layer_config": {"02": {"head_dim": 16}, "3": {"num_attention_heads": 4}}}
    assert [sizes(config, index, "full") for index in range(1, 4)] == [(8, 4, 64), (8, 4, 16), (4, 4, 64)]
    listed = HEADS | {"num_attention_heads_per_layer": [8, 6], "num_key_value_heads": [2, 1]}
    assert [sizes(listed, index, "full") for index in range(2)] == [(8, 2, 64), (6, 1, 64)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": [2]}, "num_key_value_heads"),
        ({"num_attention_heads_per_layer": 3}, "num_attention_heads_per_layer"),
        ({"per_layer_config": [1]}, "per_layer_config"),
        ({"per_layer_config": {"1": 3}}, "per_layer_config"),
        ({"attention_other_setting": 3}, "attention_other_setting"),
        ({"swa_head_dim": 0}, "swa_head_dim"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        layer_fields(HEADS | changes, 1, "window")
