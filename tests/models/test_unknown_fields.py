"""Fields of architectures that are not known by name."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import Unsupported
from craftc.models.model_config import parse_model_config
from craftc.models.serving_shape import serving_shape
from craftc.models.unknown_fields import require_known_fields

NEW: dict[str, Any] = {
    "model_type": "new_moe", "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 64,
    "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 4, "first_k_dense_replace": 1,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
    "dtype": "bfloat16", "attention_bias": False, "attention_dropout": 0.1, "rope_theta": 1e4, "max_window_layers": 4,
}  # fmt: skip


def test_an_architecture_is_read_by_its_fields_if_all_that_matter_are_known() -> None:
    shape = serving_shape(parse_model_config(NEW))
    attention = 4 * (2 * 256 * 256 + 2 * 256 * 64)
    assert shape.dense_parameters == attention + 3 * 256 * 512 + 3 * 256 * 8
    assert shape.kv_bytes_per_token == 4 * 2 * 2 * 32 * 2


@pytest.mark.parametrize("field", ["memory_attn_heads", "ssm_ratio", "kv_sharing", "hc_streams", "ngram_tables"])
def test_a_field_that_may_matter_is_refused_by_name(field: str) -> None:
    with pytest.raises(Unsupported, match=field):
        serving_shape(parse_model_config(NEW | {field: 4}))


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_a_field_that_is_off_does_not_matter(value: object) -> None:
    require_known_fields({"memory_attn_heads": value}, "new_moe")


def test_a_known_architecture_may_have_fields_of_any_name() -> None:
    known = NEW | {"model_type": "qwen3_moe", "memory_attn_heads": 4}
    assert serving_shape(parse_model_config(known)).kv_heads == 2
