"""Every decoder layer as serving sees it: what mixes its tokens, and the weights beside its routed experts."""

from __future__ import annotations

from dataclasses import dataclass

from craftc.errors import BadInput, Unsupported
from craftc.models.attention_shape import (
    LATENT,
    Heads,
    Mixer,
    full_attention,
    grouped_heads,
    indexed_attention,
    latent_heads,
    window_attention,
)
from craftc.models.compressed_attention import compressed_attention
from craftc.models.config_fields import HIDDEN, MAX_SIZE, Config, number, present
from craftc.models.dense_blocks import dense_block, layer_inputs, sparse_block
from craftc.models.dense_matrix import DenseMatrix
from craftc.models.family_facts import FAMILIES
from craftc.models.layer_fields import layer_fields
from craftc.models.layer_kinds import WINDOW, Kind, layer_kinds
from craftc.models.recurrent_mixers import recurrent_mixer
from craftc.models.serving_facts import NO_FACTS, SERVING_FACTS, ServingFacts
from craftc.models.unknown_fields import require_known_fields

_GATED = ("attn_output_gate", "use_head_wise_attn_gate")
"""Fields that say that attention has an output gate: one for every value, one for every head."""


@dataclass(frozen=True)
class ServingLayer:
    """One decoder layer."""

    mixers: tuple[Mixer, ...]
    """What mixes tokens: one block, or more."""
    matrices: tuple[DenseMatrix, ...]
    """All weights outside routed experts, those of the mixers included."""


def serving_layers(
    config: Config, model_type: str, decoder_layers: int, experts_by_layer: dict[int, int], value_bytes: float
) -> list[ServingLayer]:
    """The decoder layers, and multi-token-prediction layers after them: like the last, with a projection of two inputs.

    experts_by_layer: routed experts by decoder index.
    value_bytes: bytes of a value in the KV cache.

    Raises BadInput, Unsupported naming the field that is missing, wrong or not understood.
    """
    facts = SERVING_FACTS.get(model_type, NO_FACTS)
    _require_understood(config, model_type, facts)
    kinds: list[Kind] = ["full"] * decoder_layers
    if not facts.compresses:
        kinds = layer_kinds(config, decoder_layers, facts.kinds)
    hidden = number(config, HIDDEN, MAX_SIZE)
    found = []
    for index in range(max(decoder_layers, *(layer + 1 for layer in experts_by_layer))):
        like = min(index, decoder_layers - 1)
        own = layer_fields(config, like, kinds[like])
        mixers = (_mixer(own, model_type, facts, like, kinds[like], value_bytes),) * facts.attention_blocks
        beside: list[DenseMatrix] = list(layer_inputs(own, decoder_layers))
        if index in experts_by_layer:
            beside += sparse_block(own, model_type, facts, like, decoder_layers, experts_by_layer[index])
        if facts.attention_blocks > 1 or facts.dense_beside_experts:
            beside += dense_block(own, model_type) * facts.attention_blocks
        elif index not in experts_by_layer and _has_mlp(config, like, kinds):
            beside += dense_block(own, model_type)
        beside += _streams(config, facts, hidden)
        if index >= decoder_layers:
            beside.append(DenseMatrix("eh_proj", hidden, 2 * hidden))
        mixing = [matrix for mixer in mixers for matrix in mixer.matrices]
        found.append(ServingLayer(mixers, (*mixing, *beside)))
    return found


def _streams(config: Config, facts: ServingFacts, hidden: int) -> list[DenseMatrix]:
    """Hyper-connections, which mix several streams of hidden values before attention and before the MLP."""
    if not facts.streams:
        return []
    streams = number(config, ("hc_mult",), MAX_SIZE)
    rows = facts.streams * streams
    return [DenseMatrix(f"{part}.fn", rows, streams * hidden, is_plain=True) for part in ("attn_hc", "ffn_hc")]


def _has_mlp(config: Config, index: int, kinds: list[Kind]) -> bool:
    """Whether a layer without experts has an MLP: in Nemotron-H, a layer is a mixer or an MLP."""
    blocks = config.get("layers_block_type")
    if isinstance(blocks, list):
        return bool(blocks[index] == "mlp")
    pattern = config.get("hybrid_override_pattern")
    return not isinstance(pattern, str) or kinds[index] == "none"


def _mixer(config: Config, model_type: str, facts: ServingFacts, index: int, kind: Kind, value_bytes: float) -> Mixer:
    hidden = number(config, HIDDEN, MAX_SIZE)
    if facts.compresses:
        return compressed_attention(config, index, value_bytes)
    if kind == "none":
        return Mixer()
    if kind == "recurrent":
        return recurrent_mixer(config, model_type, hidden)
    is_latent = config.get(LATENT) is not None and config.get("use_mla") is not False
    heads = latent_heads(config, hidden) if is_latent else grouped_heads(config, hidden)
    gate = _gate(config, facts, heads, hidden)
    if kind == "full":
        return full_attention(heads, gate, value_bytes)
    if kind == "window":
        tokens = number(config, present(config, WINDOW)[:1] or WINDOW, MAX_SIZE)
        return window_attention(heads, gate, value_bytes, tokens)
    return indexed_attention(config, heads, gate, value_bytes, hidden, _has_indexer(config, index))


def _gate(config: Config, facts: ServingFacts, heads: Heads, hidden: int) -> tuple[DenseMatrix, ...]:
    stated = [config[key] for key in _GATED if config.get(key) is not None]
    if facts.gate == "value" or (config.get(_GATED[0]) is True and facts.gate == "none"):
        return (DenseMatrix("self_attn.gate_proj", heads.outputs, hidden),) if False not in stated else ()
    if facts.gate == "head" or config.get(_GATED[1]) is True:
        return (DenseMatrix("self_attn.g_proj", heads.query, hidden, is_plain=True),) if False not in stated else ()
    return ()


def _has_indexer(config: Config, index: int) -> bool:
    kinds = config.get("indexer_types")
    if kinds is None:
        return True
    if not isinstance(kinds, list) or len(kinds) <= index:
        raise BadInput(f"indexer_types must name a kind for each decoder layer, got {kinds!r}")
    return bool(kinds[index] != "shared")


def _require_understood(config: Config, model_type: str, facts: ServingFacts) -> None:
    """Raise BadInput, Unsupported if fields that matter are missing, or are not understood."""
    if facts.refused is not None:
        raise Unsupported(
            f"model_type {model_type!r}: attention with {facts.refused} is not understood here, so that its KV cache "
            f"and step time cannot be said; plan it without a cluster"
        )
    if model_type not in FAMILIES and model_type not in SERVING_FACTS:
        require_known_fields(config, model_type)
    for field in facts.needs:
        if config.get(field) is None and not config.get("per_layer_config"):
            raise BadInput(f"{field} is missing, and layers of model_type {model_type!r} differ in it: add it")
    if config.get("num_kv_shared_layers"):
        raise Unsupported(
            f"num_kv_shared_layers {config['num_kv_shared_layers']!r}: layers that share a cache are not known here"
        )
