"""What configs of an architecture do not say about serving: output gates, shared experts that no field counts, fields
without which its layers are not known, and architectures whose attention is not understood here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Gate = Literal["none", "value", "head"]
"""Gates on what attention gives: none, one for every value, or one for every head."""


@dataclass(frozen=True)
class ServingFacts:
    """Facts of one architecture."""

    gate: Gate = "none"
    """Gates on the outputs of attention layers."""
    kinds: str | None = None
    """Field that must say which layers see all of a context, because they differ."""
    needs: tuple[str, ...] = ()
    """Other fields that a config must have, or `per_layer_config` instead of them."""
    shared_width: str | None = None
    """Field with the intermediate size of the shared expert, where every MoE layer has one and no field says so."""
    has_shared_gate: bool = False
    """Whether the shared expert has a gate of one value."""
    dense_beside_experts: bool = False
    """Whether every layer has a dense MLP, also those with experts (Gemma 4)."""
    attention_blocks: int = 1
    """Attention blocks and dense MLPs in every layer (two in LongCat)."""
    streams: int = 0
    """Rows of the mixing matrices of its hyper-connections for each of its `hc_mult` streams; 0 if it has none."""
    compresses: bool = False
    """Whether attention is to a compressed context (DeepSeek-V4)."""
    refused: str | None = None
    """Field of what is not understood here, or None."""


_GATED_SHARED = ServingFacts(has_shared_gate=True)
_WINDOWS = ServingFacts(kinds="layer_types")
_QWEN_HYBRID = ServingFacts(gate="value", kinds="layer_types", has_shared_gate=True)
_INKLING = ServingFacts(refused="conv_kernel_size")

SERVING_FACTS: Mapping[str, ServingFacts] = {
    "afmoe": ServingFacts(gate="value", kinds="layer_types"),
    "axk2": ServingFacts(refused="gated_norm_rank"),
    "bailing_hybrid": ServingFacts(gate="head", kinds="layer_types"),
    "beam": ServingFacts(gate="value", kinds="layer_types"),
    "deepseek_v4": ServingFacts(compresses=True, streams=6),
    "dots3_note_text": ServingFacts(gate="head", kinds="layer_types", needs=("per_layer_config",)),
    "gemma4_text": ServingFacts(kinds="layer_types", dense_beside_experts=True, needs=("global_head_dim",)),
    "glm5_next_text": ServingFacts(kinds="layer_types", streams=6),
    "hunyuan_v1_moe": ServingFacts(shared_width="intermediate_size"),
    **dict.fromkeys(("hy_v4", "hy_v4_vl_text"), ServingFacts(gate="value", kinds="layer_types", streams=2)),
    "inkling_text": _INKLING,
    "inkling2_text": _INKLING,
    "inkling2_loop_text": _INKLING,
    "jetmoe": ServingFacts(refused="kv_channels"),
    "laguna": ServingFacts(gate="head", kinds="layer_types"),
    "llama4_text": ServingFacts(kinds="no_rope_layers", shared_width="intermediate_size"),
    "longcat_flash": ServingFacts(attention_blocks=2),
    "mimo_v2_flash": ServingFacts(kinds="hybrid_layer_pattern", needs=("swa_num_key_value_heads",)),
    "mistral_large4_text": ServingFacts(refused="kv_source_layers"),
    "muse_spark_text": ServingFacts(gate="value", kinds="layer_types"),
    "nemotron_h": ServingFacts(kinds="hybrid_override_pattern"),
    **dict.fromkeys(("qwen2_moe", "qwen3_omni_moe_talker_text"), _GATED_SHARED),
    "qwen3_next": _QWEN_HYBRID,
    "qwen3_5_moe_text": _QWEN_HYBRID,
    "qwen4_exp_text": ServingFacts(refused="hc_count"),
    "step3p5": ServingFacts(gate="head", kinds="layer_types"),
    "zaya": ServingFacts(refused="cca_time0"),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), _WINDOWS),
    **dict.fromkeys(
        (
            "cohere2_moe", "exaone_moe", "flint", "gpt_oss", "granitemoe_swa", "granitemoehybrid", "jamba",
            "kimi_linear", "kolibri1", "lara_mini", "lfm2_moe", "minimax", "minimax_text_01",
        ),
        _WINDOWS,
    ),
}  # fmt: skip
NO_FACTS = ServingFacts()
"""What holds for all others."""
