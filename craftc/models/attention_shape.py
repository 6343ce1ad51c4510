"""What the attention of one decoder layer takes: weights, KV cache, and operations for each pair of tokens.

Latent attention (MLA) is that of the DeepSeek-V2 paper (arXiv 2405.04434, section 2.1), the indexer of sparse attention
that of DeepSeek-V3.2 (arXiv 2512.02556, section 2.1); all other attention has query heads in groups that share keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from craftc.errors import BadInput
from craftc.models.config_fields import MAX_SIZE, Config, number, present
from craftc.models.dense_matrix import DenseMatrix

HEADS = ("num_attention_heads", "n_heads", "num_heads", "n_head")
"""Names of the number of query heads."""
KV_HEADS = ("num_key_value_heads", "num_attention_groups", "kv_n_heads", "num_kv_heads")
"""Names of the number of key and value heads."""
LATENT = "kv_lora_rank"
"""Field that only configs of latent attention have."""
INDEX_SCALE_BYTES = 4
"""Scale that SGLang and vLLM keep with every 128 values of an indexer's key."""


@dataclass(frozen=True)
class WindowCache:
    """Attention layers that see some tokens of a context only: its last ones, or those that an indexer chooses."""

    tokens: int
    """Tokens that are seen at most, at least 1."""
    bytes_per_token: int
    """KV cache for each of them over all these layers, at least 0 (0 where the whole context is kept anyway)."""
    score_flops_per_pair: int
    """Operations for each pair of a query token and a token that it sees, over all these layers, at least 0."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadInput(f"window: tokens must be at least 1, got {self.tokens}")
        if self.bytes_per_token < 0 or self.score_flops_per_pair < 0:
            raise BadInput(
                f"window of {self.tokens} tokens: bytes and operations must not be negative, got "
                f"{self.bytes_per_token} and {self.score_flops_per_pair}"
            )


@dataclass(frozen=True)
class Mixer:
    """What mixes the tokens of a context in one decoder layer."""

    matrices: tuple[DenseMatrix, ...] = ()
    """Its weights; norms and biases, which are vectors, are left out."""
    kv_bytes: int = 0
    """KV cache for each token of the whole context, at least 0."""
    kv_heads: int | None = None
    """Heads that share the cache, at least 1, or None if there is no cache."""
    prefill_flops: int = 0
    """Operations for each pair of a prompt's token and a token of its context, at least 0."""
    decode_flops: int = 0
    """The same for generated tokens."""
    windows: tuple[WindowCache, ...] = ()
    """What it keeps or computes of some tokens only."""
    state_bytes: int = 0
    """What it keeps of a request, whatever its length, at least 0."""


@dataclass(frozen=True)
class Heads:
    """Sizes of attention in one layer, from its fields."""

    query: int
    """Query heads, at least 1."""
    kept: int
    """Key and value heads in the cache, at least 1: one for latent attention."""
    kept_values: int
    """Values in the cache for one token, at least 1."""
    prefill_flops: int
    """Operations for a pair of tokens: scores, and values weighed with them; with keys and values of every head written
    out, as servers prefill.
    """
    decode_flops: int
    """The same on what is in the cache, as servers decode."""
    outputs: int
    """Values that all heads give together, at least 1."""
    matrices: tuple[DenseMatrix, ...]
    """Projections, without output gates."""


def grouped_heads(config: Config, hidden: int) -> Heads:
    """Grouped-query attention. Raises BadInput naming the field that is wrong or missing."""
    heads = number(config, HEADS, MAX_SIZE)
    kept = number(config, present(config, KV_HEADS) or KV_HEADS, heads)
    key = head_size(config, heads, hidden)
    value = number(config, ("v_head_dim",), MAX_SIZE) if present(config, ("v_head_dim",)) else key
    flops = 2 * heads * (key + value)
    queries = _compressed(config, "share_q_dim", "q_proj", "wq", heads * key, hidden)
    has_values = config.get("attention_k_eq_v") is not True
    matrices = (
        *queries,
        DenseMatrix("self_attn.k_proj", kept * key, hidden),
        *((DenseMatrix("self_attn.v_proj", kept * value, hidden),) if has_values else ()),
        DenseMatrix("self_attn.o_proj", hidden, heads * value),
    )
    return Heads(heads, kept, kept * (key + value), flops, flops, heads * value, matrices)


def latent_heads(config: Config, hidden: int) -> Heads:
    """Latent attention. Raises BadInput naming the field that is wrong or missing."""
    heads = number(config, HEADS, MAX_SIZE)
    rank = number(config, (LATENT,), MAX_SIZE)
    rope = 0 if config.get("qk_rope_head_dim") == 0 else number(config, ("qk_rope_head_dim",), MAX_SIZE)
    plain = number(config, ("qk_nope_head_dim",), MAX_SIZE)
    value = number(config, ("v_head_dim",), MAX_SIZE)
    matrices = (
        *_compressed(config, "q_lora_rank", "q_a_proj", "q_b_proj", heads * (plain + rope), hidden),
        DenseMatrix("self_attn.kv_a_proj_with_mqa", rank + rope, hidden),
        DenseMatrix("self_attn.kv_b_proj", heads * (plain + value), rank),
        DenseMatrix("self_attn.o_proj", hidden, heads * value),
    )
    written_out, compressed = 2 * heads * (plain + rope + value), 2 * heads * (2 * rank + rope)
    return Heads(heads, 1, rank + rope, written_out, compressed, heads * value, matrices)


def head_size(config: Config, heads: int, hidden: int) -> int:
    """Size of a head: as stated, else an equal part of the hidden size. Raises BadInput if there is none."""
    if present(config, ("head_dim",)):
        return number(config, ("head_dim",), MAX_SIZE)
    if hidden % heads:
        raise BadInput(f"head_dim is missing, and {heads} heads do not divide the hidden size {hidden}: add it")
    return hidden // heads


def _compressed(config: Config, rank: str, down: str, up: str, rows: int, hidden: int) -> tuple[DenseMatrix, ...]:
    """Queries, in one step, or by way of a smaller vector."""
    if config.get(rank) is None:
        return (DenseMatrix("self_attn.q_proj", rows, hidden),)
    size = number(config, (rank,), MAX_SIZE)
    return DenseMatrix(f"self_attn.{down}", size, hidden), DenseMatrix(f"self_attn.{up}", rows, size)


def full_attention(heads: Heads, gate: tuple[DenseMatrix, ...], value_bytes: float) -> Mixer:
    """Attention to the whole context."""
    return Mixer(
        matrices=heads.matrices + gate,
        kv_bytes=math.ceil(heads.kept_values * value_bytes),
        kv_heads=heads.kept,
        prefill_flops=heads.prefill_flops,
        decode_flops=heads.decode_flops,
    )


def window_attention(heads: Heads, gate: tuple[DenseMatrix, ...], value_bytes: float, tokens: int) -> Mixer:
    """Attention to the last `tokens` tokens, or to those of a chunk of that size."""
    window = WindowCache(tokens, math.ceil(heads.kept_values * value_bytes), heads.decode_flops)
    return Mixer(matrices=heads.matrices + gate, kv_heads=heads.kept, windows=(window,))


def indexed_attention(
    config: Config, heads: Heads, gate: tuple[DenseMatrix, ...], value_bytes: float, hidden: int, has_indexer: bool
) -> Mixer:
    """Sparse attention: an indexer scores the whole context, and `index_topk` tokens of it are attended to.

    The whole context stays in the cache, and the indexer's key with it, in eight bits; attention to the chosen tokens
    works on what is in the cache, in prefill too. `index_kpool` tokens may share a key of the indexer.

    has_indexer: whether the layer has an indexer of its own, or uses what an earlier layer's chose.

    Raises BadInput naming the field that is wrong or missing.
    """
    size = number(config, ("index_head_dim",), MAX_SIZE)
    count = number(config, ("index_n_heads",), MAX_SIZE)
    query = number(config, ("q_lora_rank",), MAX_SIZE) if config.get("q_lora_rank") is not None else hidden
    indexer: tuple[DenseMatrix, ...] = (
        DenseMatrix("self_attn.indexer.wq_b", count * size, query),
        DenseMatrix("self_attn.indexer.wk", size, hidden),
        DenseMatrix("self_attn.indexer.weights_proj", count, hidden, is_plain=True),
    )
    pool = number(config, ("index_kpool",), MAX_SIZE) if config.get("index_kpool") is not None else 1
    if pool > 1:
        indexer += (
            DenseMatrix("self_attn.indexer.index_kpool_compress_gate", size, hidden, is_plain=True),
            DenseMatrix("self_attn.indexer.index_kpool_compress_ape", pool, size, is_plain=True),
        )
    key_bytes = math.ceil((size + math.ceil(size / 128) * INDEX_SCALE_BYTES) / pool)
    flops = 2 * count * size // pool if has_indexer else 0
    return Mixer(
        matrices=heads.matrices + gate + (indexer if has_indexer else ()),
        kv_bytes=math.ceil(heads.kept_values * value_bytes) + (key_bytes if has_indexer else 0),
        kv_heads=heads.kept,
        prefill_flops=flops,
        decode_flops=flops,
        windows=(WindowCache(number(config, ("index_topk",), MAX_SIZE), 0, heads.decode_flops),),
    )
