"""Configs of published models with every field that serving reads, as their repositories state them."""

from __future__ import annotations

from typing import Any

from tests.models.test_model_config import DEEPSEEK

DEEPSEEK_V3: dict[str, Any] = DEEPSEEK | {
    "vocab_size": 129280, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "tie_word_embeddings": False,
}  # fmt: skip
"""deepseek-ai/DeepSeek-V3."""
