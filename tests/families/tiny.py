"""A tiny random model of any MoE architecture in transformers, from its own configuration class.

Fields are shrunk by name wherever a configuration has them, so that a new architecture needs no line here; what an
architecture's own checks ask for on top stands in `EXTRA`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCABULARY = 97
_LAYERS = 4

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 24,
    "intermediate_size_mlp": 24,
    "ffn_hidden_size": 24,
    "expert_ffn_hidden_size": 24,
    "moe_intermediate_size": 24,
    "dense_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "moe_latent_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_hidden_layers": _LAYERS,
    "num_layers": _LAYERS,
    "num_decoder_layers": _LAYERS,
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "n_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 8,
    "v_head_dim": 8,
    "d_kv": 8,
    "kv_channels": 8,
    "d_ff": 24,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "top_k_experts": 2,
    "moe_top_k": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 2,
    "topk_group": 1,
    "num_expert_group": 2,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 4,
    "max_position_embeddings": 128,
    "sliding_window": 4,
    "attention_chunk_size": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "n_groups": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "expert_capacity": 64,
    "depth": 2,
    "embed_dim": 32,
    "out_hidden_size": 32,
}
"""A small value for every size that configurations state."""

EXTRA: dict[str, dict[str, Any]] = {
    "dots1": {
        "n_shared_experts": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention"] * _LAYERS,
    },
    "hunyuan_v1_moe": {"head_dim": 8},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 24],
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_theta": 1e4,
            "rope_type": "default",
            "mrope_section": [1, 1, 2],
            "partial_rotary_factor": 1.0,
        },
    },
    "glm5_next_text": {"num_key_value_heads": 4, "index_topk": 16, "qk_rope_head_dim": 0},
    "mistral4": {
        "qk_head_dim": 16,
        "rope_parameters": {
            "rope_theta": 1e4,
            "rope_type": "default",
            "partial_rotary_factor": 0.5,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        },
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "inkling2_loop": {"vision_config": {"text_hidden_size": 32}},
    "hy_v4_vl_text": {
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "head_dim": 16,
        "num_key_value_heads": 4,
    },
    "deepseek_ocr2_text": {
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_experts_per_tok": 2,
    },
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 1, "vision_end_token_id": 2, "audio_start_token_id": 5},
    "qwen3_omni_moe_talker": {"spatial_merge_size": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "step3p5": {
        "sliding_window": 4,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "layer_types": ["full_attention"] * _LAYERS,
    },
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 16},
}
"""What an architecture's own checks ask for, by model type of the configuration the field belongs to."""


def moe_sources() -> tuple[str, ...]:
    """The modeling files of the installed transformers that have experts, by the name of their folder."""
    import transformers

    folder = Path(transformers.__file__).parent / "models"
    pattern = re.compile(r"^class \w*Experts?\w*\(|self\.experts\b", re.MULTILINE)
    return tuple(
        path.parent.name for path in sorted(folder.glob("*/modeling_*.py")) if pattern.search(path.read_text())
    )


def architectures(source: str) -> tuple[type[nn.Module], ...]:
    """The classes of a modeling file that are whole models with experts: heads for generation, else the last model."""
    module = importlib.import_module(f"transformers.models.{source}.modeling_{source}")
    classes = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    heads = [kind for kind in classes if re.search(r"For(CausalLM|ConditionalGeneration)$", kind.__name__)]
    parts = ("PreTrainedModel", "Talker", "CodePredictor")  # of Qwen3-Omni: no models that take text
    whole = [kind for kind in heads if not any(part in kind.__name__ for part in parts)]
    return tuple(whole) or tuple(kind for kind in classes if kind.__name__.endswith("ForTokenClassification"))


def tiny_configuration(config_class: type) -> Any:
    """A configuration of `config_class` whose sizes are small wherever `SMALL` knows the field."""
    return config_class(**_overrides(config_class))


def _overrides(config_class: type) -> dict[str, Any]:
    default = config_class()
    fields = {name: value for name, value in SMALL.items() if _states(default, name)}
    if _states(default, "kv_lora_rank"):
        fields["num_key_value_heads"] = fields.get("num_attention_heads", 4)
    for name, inner in (getattr(config_class, "sub_configs", None) or {}).items():
        value = getattr(default, name, None)
        kind = type(value) if value is not None else inner
        if hasattr(kind, "model_type") and not kind.__name__.startswith("Auto"):
            fields[name] = _overrides(kind)
    return _merged(fields, EXTRA.get(default.model_type, {}))


def _states(config: Any, name: str) -> bool:
    """Whether a configuration has a value for a field; one that differs between layers counts."""
    try:
        return getattr(config, name, None) is not None
    except Exception:  # transformers has an error of its own for fields that differ between layers
        return True


def _merged(fields: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    return fields | {
        name: _merged(fields[name], value) if isinstance(value, dict) and isinstance(fields.get(name), dict) else value
        for name, value in extra.items()
    }


def build(kind: Any, seed: int = 0) -> nn.Module:
    """A model in eval mode with random weights, norms and biases included."""
    torch.manual_seed(seed)
    model = kind(tiny_configuration(kind.config_class))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(centre + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
