"""Attention of DeepSeek-V4 to a compressed context."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import BadInput
from craftc.models.attention_shape import WindowCache
from craftc.models.compressed_attention import compressed_attention

FLASH: dict[str, Any] = {
    "hidden_size": 4096, "num_attention_heads": 64, "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024,
    "o_groups": 8, "sliding_window": 128, "index_topk": 512, "index_n_heads": 64, "index_head_dim": 128,
    "layer_types": ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
}  # fmt: skip
SCORES = 2 * 64 * (512 + 512)
"""Operations for a pair: one key for all heads, which is the value too."""
WINDOW = WindowCache(128, 512 * 2, SCORES)


def test_a_window_alone() -> None:
    mixer = compressed_attention(FLASH, 0, 2.0)
    assert (mixer.kv_bytes, mixer.kv_heads, mixer.decode_flops, mixer.windows) == (0, 1, 0, (WINDOW,))
    assert sum(matrix.values for matrix in mixer.matrices) == (
        4096 * 1024 + 1024 * 64 * 512 + 4096 * 512 + 64 * 512 * 1024 + 8 * 1024 * 4096
    )


def test_one_entry_for_128_tokens() -> None:
    mixer = compressed_attention(FLASH, 1, 2.0)
    assert (mixer.kv_bytes, mixer.prefill_flops, mixer.windows) == (512 * 2 // 128, SCORES // 128, (WINDOW,))


def test_one_entry_for_4_tokens_of_which_an_indexer_chooses_512() -> None:
    mixer = compressed_attention(FLASH, 2, 2.0)
    assert mixer.kv_bytes == (512 * 2 + 128 + 4) // 4
    assert mixer.decode_flops == 2 * 64 * 128 // 4
    assert mixer.windows == (WINDOW, WindowCache(4 * 512, 0, SCORES // 4))


def test_ratios_and_rates_say_the_same_as_kinds() -> None:
    ratios = {key: value for key, value in FLASH.items() if key != "layer_types"} | {"compress_ratios": [0, 128, 4]}
    assert [compressed_attention(ratios, index, 2.0) for index in range(3)] == [
        compressed_attention(FLASH, index, 2.0) for index in range(3)
    ]
    rates = FLASH | {"compress_rates": {"heavily_compressed_attention": 64}}
    assert compressed_attention(rates, 1, 2.0).kv_bytes == 512 * 2 // 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": None}, "compress_ratios"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"layer_types": None, "compress_ratios": [0, 3, 3]}, "compress_ratios"),
        ({"layer_types": None, "compress_ratios": [0, [], 3]}, "compress_ratios"),
        ({"o_groups": 7}, "o_groups"),
        ({"compress_rates": {"heavily_compressed_attention": 0}}, "heavily_compressed_attention"),
        ({"sliding_window": None}, "sliding_window"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        compressed_attention(FLASH | changes, 1, 2.0)
