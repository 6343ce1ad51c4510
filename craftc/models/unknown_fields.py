"""Fields of an architecture that is not known by name which may change what its attention takes.

Where all fields that could are known, attention is read from them; one that is not known here is refused by its name,
rather than left out of account.
"""

from __future__ import annotations

import re

from craftc.errors import Unsupported
from craftc.models.config_fields import Config

_SUSPECT = re.compile(
    r"attn|attention|kv_|mamba|ssm|conv|recurrent|linear_|sparse_|window|chunk|index_|indexer|_rank|lora|(?:^|_)hc_|loop|"
    r"ngram|engram|hyper_|gated|lightning|delta|retention|landmark|per_layer"
)
"""Parts of names of fields that may say how tokens are mixed."""
_KNOWN = re.compile(
    r"num_(?:attention|key_value|kv)_heads|num_attention_groups|kv_n_heads|[kq]v?_lora_rank|qkv_bias|share_q_dim|"
    r"(?:attention|attn|qkv|use_qkv|conv|mamba)_?(?:bias|dropout|drop|pdrop|scale|multiplier|logit_softcapping)|"
    r"attention_(?:probs_dropout_prob|softmax_in_fp32|out_bias|in_bias|other_setting)|_?attn_implementation(?:_.*)?|"
    r"output_attentions|attn_type_list|attn_output_gate|use_head_wise_attn_gate|hybrid_layer_pattern|"
    r"(?:use_)?sliding_window(?:_size|_pattern)?|max_window_layers|attention_chunk_size|chunk_size_feed_forward|"
    r"full_attention_interval|attn_layer_(?:period|offset)|linear_attn_config|global_attn_every_n_layers|per_layer_config|"
    r"index_(?:topk|head_dim|n_heads)|indexer_types|linear_(?:num_heads|head_dim|num_key_heads|num_value_heads)|"
    r"linear_(?:key_head_dim|value_head_dim|conv_kernel_dim|attn_(?:alpha|beta)_factor)|"
    r"full_attn_(?:idxs|alpha_factor|beta_factor)|mamba_(?:num_heads|n_heads|head_dim|d_head|d_state|d_conv|n_groups|"
    r"expand|dt_rank|ssm_cache_dtype|ssm_dtype|hidden_act|proj_bias|conv_bias|chunk_size)|ssm_state_size|conv_kernel|"
    r"conv_L_cache|chunk_size|use_mamba_kernels|decoder_sparse_step|use_flash_attn|use_flash_attention|rope_.*|"
    r"image_token_index|video_token_index|num_nextn_predict_layers|mlp_bias"
)
"""Names of those that are read here, or that change neither memory nor operations."""


def require_known_fields(config: Config, model_type: str) -> None:
    """Raise Unsupported naming a field that may say how tokens are mixed and is not known here."""
    for key, value in config.items():
        is_off = value is None or value is False or value in (0, "", [], {})
        if is_off or _SUSPECT.search(key) is None or _KNOWN.fullmatch(key):
            continue
        raise Unsupported(
            f"model_type {model_type!r} is not known here, and its field {key} ({str(value)[:40]}) may change what "
            f"attention takes: its KV cache and step time cannot be said; plan it without a cluster"
        )
