"""Tiny random models of every MoE family the suite runs on, from transformers' own configurations.

`FAMILIES["mixtral"].build(seed)` is the model, `example_inputs(...)` its inputs. Some have dense blocks among the MoE
ones, so that a layer's index differs from its ordinal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

VOCABULARY = 97


@dataclass(frozen=True)
class Family:
    """One family: its classes in transformers and a tiny configuration."""

    config_class: str
    model_class: str
    options: dict[str, Any]
    """Keyword arguments of the configuration beyond `COMMON`."""
    layers: tuple[int, ...]
    """Decoder block index of every MoE layer."""
    experts: int = 8
    top_k: int = 2
    experts_abi: bool = True
    """Whether experts take (hidden, indices, weights), so that craftc can replace them."""

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model in eval mode, every parameter random (norms, biases and router corrections too)."""
        import transformers

        config = getattr(transformers, self.config_class)(**(COMMON | self.options))
        model = getattr(transformers, self.model_class)(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                centre = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
                parameter.copy_(centre + 0.1 * torch.randn(parameter.shape, generator=generator))
            for name, buffer in model.named_buffers():
                if name.endswith("_bias"):
                    buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        return model.to(dtype).eval()


COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEEPSEEK = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}

FAMILIES: dict[str, Family] = {
    "mixtral": Family("MixtralConfig", "MixtralForCausalLM", _LOCAL, (0, 1, 2)),
    "qwen2_moe": Family(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 16,
            "mlp_only_layers": [1],
        },
        (0, 2),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
        (0, 1, 2),
    ),
    "deepseek_v3": Family("DeepseekV3Config", "DeepseekV3ForCausalLM", _DEEPSEEK, (1, 2)),
    "olmoe": Family("OlmoeConfig", "OlmoeForCausalLM", {"num_experts": 8, "num_experts_per_tok": 2}, (0, 1, 2)),
    "gpt_oss": Family(
        "GptOssConfig",
        "GptOssForCausalLM",
        _LOCAL
        | {
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        (0, 1, 2),
    ),
    "granite_moe": Family("GraniteMoeConfig", "GraniteMoeForCausalLM", _LOCAL, (0, 1, 2)),
    "phi_moe": Family("PhimoeConfig", "PhimoeForCausalLM", _LOCAL, (0, 1, 2)),
    "glm4_moe": Family(
        "Glm4MoeConfig",
        "Glm4MoeForCausalLM",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "head_dim": 8,
        },
        (1, 2),
    ),
    "llama4_text": Family(
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 24,
            "head_dim": 8,
            "attention_chunk_size": 4,
            "interleave_moe_layer_step": 1,
        },
        (),
        top_k=1,
        experts_abi=False,
    ),
}


def example_inputs(batch: int = 2, tokens: int = 7, seed: int = 0, padding: int = 0) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, `[batch, tokens]`; the first row's first `padding` tokens are padding."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :padding] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def build_family(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model of `FAMILIES[name]` and example inputs for it."""
    return FAMILIES[name].build(seed), example_inputs(seed=seed)
