"""What a server needs to know of a model to say how long a step takes and how much memory is left for KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from craftc.errors import BadInput, Unsupported
from craftc.models.attention_shape import LATENT, Mixer, WindowCache, grouped_heads, latent_heads
from craftc.models.config_fields import HIDDEN, MAX_SIZE, Config, expert_width_names, number
from craftc.models.expert_shape import expert_shapes
from craftc.models.expert_size import plain_bytes
from craftc.models.family_facts import FAMILIES
from craftc.models.model_config import ModelConfig

ComputeType = Literal["bfloat16", "float16", "float8", "int8", "float4"]
"""Type in which a matrix multiplication runs."""


@dataclass(frozen=True)
class ServingShape:
    """A model as a server sees it."""

    hidden: int
    """Size of what goes from layer to layer, at least 1."""
    decoder_layers: int
    """Decoder layers, at least 1."""
    kv_bytes_per_token: int
    """KV cache for each token of a context, over all layers that see the whole of it, at least 0."""
    kv_heads: int
    """Heads among which tensor parallelism can split the cache, at least 1; 1 for latent attention."""
    windows: tuple[WindowCache, ...]
    """What layers keep or compute of the last tokens only, by number of tokens."""
    state_bytes: int
    """What layers without KV cache keep of a request, at least 0."""
    score_flops_per_pair: int
    """Operations in prefill for each pair of a token and a token of its context, at least 0."""
    decode_score_flops_per_pair: int
    """The same for generated tokens, which latent attention computes on compressed keys and values, at least 0."""
    dense_parameters: int
    """Weights outside routed experts that every token is multiplied with, without embeddings and head, at least 1."""
    dense_bytes: int
    """Bytes of everything outside the routed experts, embeddings and head included, at least 1."""
    dense_dtype: ComputeType
    """Type in which matrices outside the routed experts are multiplied."""
    expert_dtype: ComputeType
    """Type in which routed experts are multiplied."""
    expert_parameters: tuple[int, ...]
    """Weights of one routed expert of every MoE layer, each at least 1."""
    notes: tuple[str, ...] = ()
    """What could not be read for sure, and what was taken instead."""


def serving_shape(model: ModelConfig) -> ServingShape:
    """What serving `model` takes. Raises BadInput, Unsupported naming the field that is missing or not understood."""
    if model.text is None:
        raise BadInput("the model was not read from a config.json, which serving needs: give one")
    text, config = model.text, model.text.fields
    hidden = number(config, HIDDEN, MAX_SIZE)
    mixers = [_mixer(config, hidden) for _ in range(model.hidden_layers)]
    shapes = expert_shapes(config, FAMILIES.get(text.model_type), model.hidden_layers)
    expert_parameters = tuple(shapes[layer.index].parameters for layer in model.layers)
    dense = sum(mixer.parameters for mixer in mixers) + _feed_forward(config, hidden, model)
    vocabulary = number(config, ("vocab_size",), MAX_SIZE)
    tables = (1 if text.outer("tie_word_embeddings") else 2) * vocabulary * hidden
    plain = plain_bytes(text) or 2
    quantised = text.outer("quantization_config") or {}
    is_float8 = quantised.get("quant_method") == "fp8"
    kind: ComputeType = "float8" if is_float8 else "bfloat16"
    return ServingShape(
        hidden=hidden,
        decoder_layers=model.hidden_layers,
        kv_bytes_per_token=sum(mixer.kv_bytes for mixer in mixers),
        kv_heads=min((mixer.kv_heads for mixer in mixers if mixer.kv_heads is not None), default=1),
        windows=(),
        state_bytes=0,
        score_flops_per_pair=sum(mixer.prefill_flops for mixer in mixers),
        decode_score_flops_per_pair=sum(mixer.decode_flops for mixer in mixers),
        dense_parameters=dense,
        dense_bytes=dense * (1 if is_float8 else plain) + tables * plain,
        dense_dtype=kind,
        expert_dtype=kind,
        expert_parameters=expert_parameters,
    )


def _mixer(config: Config, hidden: int) -> Mixer:
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern", "index_topk", "linear_attn_config"):
        kinds = config.get(key)
        if kinds is not None and not (isinstance(kinds, list) and set(kinds) == {"full_attention"}):
            raise Unsupported(f"{key}: what these layers take in serving is not known yet")
    if config.get(LATENT) is not None:
        latent = latent_heads(config)
        return Mixer(latent.parameters(hidden), 2 * latent.cache_values, 1, latent.prefill_flops, latent.decode_flops)
    heads = grouped_heads(config, hidden)
    return Mixer(heads.parameters(hidden), 2 * heads.cache_values, heads.kv_heads, heads.flops, heads.flops)


def _feed_forward(config: Config, hidden: int, model: ModelConfig) -> int:
    """Routers, shared experts and dense layers."""
    routers = sum(layer.experts for layer in model.layers) * hidden
    dense_layers = model.hidden_layers - len(model.layers)
    dense = dense_layers * 3 * hidden * (number(config, ("intermediate_size",), MAX_SIZE) if dense_layers else 0)
    shared = config.get("n_shared_experts") or config.get("num_shared_experts") or 0
    width = number(config, expert_width_names(config, "intermediate_size"), MAX_SIZE) if shared else 0
    return routers + dense + len(model.layers) * 3 * hidden * width * shared
