"""Attention of DeepSeek-V4 to a context that is compressed, as its modules in transformers have it.

Every layer sees the last tokens as they are (`sliding_window`), with one key for all heads that is the value too. Most
see the rest in a cache with one entry for so many tokens; where these are few, an indexer chooses `index_topk` entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from craftc.errors import BadInput
from craftc.models.attention_shape import HEADS, INDEX_SCALE_BYTES, Mixer, WindowCache
from craftc.models.config_fields import HIDDEN, MAX_SIZE, Config, number
from craftc.models.dense_matrix import DenseMatrix

_KINDS = {
    "sliding_attention": (0, False),
    "compressed_sparse_attention": (4, True),
    "heavily_compressed_attention": (128, False),
}
"""Tokens for an entry unless `compress_rates` says otherwise (0: no entries), and whether an indexer chooses."""
_RATIOS: Mapping[object, str] = {rate: kind for kind, (rate, _) in _KINDS.items()}
"""What `compress_ratios` means, a number for each layer."""


def compressed_attention(config: Config, index: int, value_bytes: float) -> Mixer:
    """The attention of decoder layer `index`. Raises BadInput naming the field that is wrong or missing."""
    kind = _kind(config, index)
    heads, size = number(config, HEADS, MAX_SIZE), _size(config, "head_dim")
    flops = 2 * heads * 2 * size
    window = WindowCache(_size(config, "sliding_window"), math.ceil(size * value_bytes), flops)
    projections = _projections(config, heads * size, size)
    tokens, has_indexer = _rate(config, kind), _KINDS[kind][1]
    if not tokens:
        return Mixer(matrices=projections, kv_heads=1, windows=(window,))
    compressor = _compressor(config, "self_attn.compressor", size * (2 if has_indexer else 1), tokens)
    entry_bytes = size * value_bytes
    if not has_indexer:
        return Mixer(
            matrices=projections + compressor,
            kv_bytes=math.ceil(entry_bytes / tokens),
            kv_heads=1,
            prefill_flops=flops // tokens,
            decode_flops=flops // tokens,
            windows=(window,),
        )
    key, queries = _size(config, "index_head_dim"), _size(config, "index_n_heads")
    indexer = (
        *_compressor(config, "self_attn.compressor.indexer", 2 * key, tokens),
        DenseMatrix("self_attn.compressor.indexer.q_b_proj", queries * key, _size(config, "q_lora_rank")),
        DenseMatrix("self_attn.compressor.indexer.weights_proj", queries, number(config, HIDDEN, MAX_SIZE), True),
    )
    key_bytes = key + math.ceil(key / 128) * INDEX_SCALE_BYTES
    chosen = WindowCache(_size(config, "index_topk") * tokens, 0, flops // tokens)
    return Mixer(
        matrices=projections + compressor + indexer,
        kv_bytes=math.ceil((entry_bytes + key_bytes) / tokens),
        kv_heads=1,
        prefill_flops=2 * queries * key // tokens,
        decode_flops=2 * queries * key // tokens,
        windows=(window, chosen),
    )


def _kind(config: Config, index: int) -> str:
    names: Mapping[object, str] = {kind: kind for kind in _KINDS}
    for field, kinds in (("layer_types", names), ("compress_ratios", _RATIOS)):
        stated = config.get(field)
        if stated is None:
            continue
        if not isinstance(stated, list) or len(stated) <= index or stated[index] not in list(kinds):
            raise BadInput(f"{field} must have one of {', '.join(map(str, kinds))} for layer {index}, got {stated!r}")
        return kinds[stated[index]]
    raise BadInput("layer_types (or compress_ratios) is missing: it says how layers compress a context; add it")


def _rate(config: Config, kind: str) -> int:
    rates = config.get("compress_rates")
    if not isinstance(rates, dict) or kind not in rates:
        return _KINDS[kind][0]
    return number(rates, (kind,), MAX_SIZE)


def _projections(config: Config, width: int, size: int) -> tuple[DenseMatrix, ...]:
    hidden, query = number(config, HIDDEN, MAX_SIZE), _size(config, "q_lora_rank")
    groups, rank = _size(config, "o_groups"), _size(config, "o_lora_rank")
    if width % groups:
        raise BadInput(f"o_groups {groups} does not divide the {width} values that all heads give")
    return (
        DenseMatrix("self_attn.q_a_proj", query, hidden),
        DenseMatrix("self_attn.q_b_proj", width, query),
        DenseMatrix("self_attn.kv_proj", size, hidden),
        DenseMatrix("self_attn.o_a_proj", groups * rank, width // groups),
        DenseMatrix("self_attn.o_b_proj", hidden, groups * rank),
    )


def _compressor(config: Config, path: str, width: int, tokens: int) -> tuple[DenseMatrix, ...]:
    hidden = number(config, HIDDEN, MAX_SIZE)
    return (
        DenseMatrix(f"{path}.kv_proj", width, hidden),
        DenseMatrix(f"{path}.gate_proj", width, hidden),
        DenseMatrix(f"{path}.position_bias", tokens, width, is_plain=True),
    )


def _size(config: Config, key: str) -> int:
    return number(config, (key,), MAX_SIZE)
