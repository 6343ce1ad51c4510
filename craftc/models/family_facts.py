"""What configs of an architecture do not say about its experts, for architectures of transformers and a few others.

Everything that a config does say is read from there; an architecture that is not here is known by its fields alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyFacts:
    """Facts of one architecture."""

    dense_first: int | None = 0
    """Dense layers at the start if its config does not say which layers are sparse; None if that is not known."""
    block: str | None = "mlp"
    """Name of the MoE block in a decoder layer, as transformers has it; None if experts lie in the layer itself."""
    stored_blocks: tuple[str, ...] = ()
    """Other names of the block, in checkpoints."""
    gated: bool = True
    """Whether experts have gate, up and down matrices, or only up and down."""
    width: str | None = None
    """Field with the intermediate size of experts, where no field is named for theirs."""
    biased: bool = False
    """Whether experts have a bias for each matrix."""
    stack: str = "model.layers"
    """Path of the decoder layers."""
    layers: str | None = None
    """Field with the number of decoder layers, where a config has two that differ."""


_MIXTRAL = FamilyFacts(stored_blocks=("block_sparse_moe",), width="intermediate_size")
_GRANITE = FamilyFacts(block="block_sparse_moe", width="intermediate_size")
_FEED_FORWARD = FamilyFacts(block="feed_forward", width="intermediate_size")
_OLMOE = FamilyFacts(width="intermediate_size")
_FIRST_DENSE = FamilyFacts(dense_first=1)
_TWO_DENSE = FamilyFacts(dense_first=2)
_THREE_DENSE = FamilyFacts(dense_first=3)
_ALL_SPARSE = FamilyFacts()

FAMILIES: Mapping[str, FamilyFacts] = {
    **dict.fromkeys(
        (
            "deepseek_v2", "dots1", "inkling2_loop_text",
            "inkling2_text", "inkling_text", "kolibri1", "lara_mini", "mellum", "mistral4",
            "muse_spark_text", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text",
            "qwen3_omni_moe_text", "qwen3_vl_moe_text", "solar_open", "qwen4_exp_text", "zaya",
        ),
        _ALL_SPARSE,
    ),
    **dict.fromkeys(("aria_text", "cohere2_moe", "flex_olmo", "hunyuan_v1_moe", "jetmoe", "olmoe"), _OLMOE),
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2", "phimoe"), _MIXTRAL),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), _MIXTRAL),
    **dict.fromkeys(("granitemoe", "granitemoehybrid", "granitemoeshared", "granitemoe_swa"), _GRANITE),
    **dict.fromkeys(("llama4_text", "jamba"), _FEED_FORWARD),
    **dict.fromkeys(("gpt_oss", "openai_privacy_filter"), FamilyFacts(biased=True, width="intermediate_size")),
    **dict.fromkeys(
        (
            "afmoe", "axk1", "axk2", "dots3_note_text", "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm4v_moe_text",
            "hy_v3", "hy_v4", "unlimited_ocr_text", "hy_v4_vl_text", "laguna", "mimo_v2_flash", "mistral_large4_text",
        ),
        _FIRST_DENSE,
    ),
    "bailing_hybrid": _TWO_DENSE,
    "flint": _TWO_DENSE,
    "ernie4_5_moe": _FIRST_DENSE,
    **dict.fromkeys(("beam", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm5_next_text"), _THREE_DENSE),
    "longcat_flash": FamilyFacts(layers="num_layers"),
    "kimi_linear": FamilyFacts(dense_first=1, stored_blocks=("block_sparse_moe",)),
    "step3p5": FamilyFacts(dense_first=3, stored_blocks=("moe",)),
    "deepseek_v4": FamilyFacts(stored_blocks=("ffn",)),
    "gemma4_text": FamilyFacts(block=None, stored_blocks=("moe",)),
    "lfm2_moe": FamilyFacts(dense_first=2, block="feed_forward"),
    "dbrx": FamilyFacts(block="ffn", stack="transformer.blocks", width="ffn_hidden_size"),
    "nemotron_h": FamilyFacts(dense_first=None, block="mixer", gated=False),
}  # fmt: skip
UNKNOWN_BLOCKS = ("mlp", "block_sparse_moe", "feed_forward", "moe", "ffn", "mixer")
"""What MoE blocks are called, where it is not known which of these."""
UNKNOWN = FamilyFacts(dense_first=None)
"""What is assumed of an architecture that is not in `FAMILIES`."""
