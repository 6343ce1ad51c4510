"""What the attention of one decoder layer takes: weights, KV cache, and operations for each pair of tokens.

Multi-head latent attention (MLA) as in the DeepSeek-V2 paper (arXiv 2405.04434, section 2.1), grouped-query attention
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from craftc.models.config_fields import MAX_SIZE, Config, number, present

HEADS = ("num_attention_heads", "n_heads", "num_heads", "n_head")
"""Names of the number of query heads."""
KV_HEADS = ("num_key_value_heads", "num_attention_groups", "kv_n_heads", "num_kv_heads")
"""Names of the number of key and value heads."""
LATENT = "kv_lora_rank"
"""Field that only configs of latent attention have."""


@dataclass(frozen=True)
class WindowCache:
    """Attention layers that see the last tokens of a context only."""

    tokens: int
    """Tokens that are seen at most, at least 1."""
    bytes_per_token: int
    """KV cache for each of them over all these layers, at least 0 (0 where the whole context is kept anyway)."""
    score_flops_per_pair: int
    """Operations for each pair of a query token and a token that it sees, over all these layers, at least 0."""


@dataclass(frozen=True)
class Mixer:
    """What mixes the tokens of a context in one decoder layer."""

    parameters: int = 0
    """Values of its matrices, at least 0."""
    kv_bytes: int = 0
    """KV cache for each token of the whole context, at least 0."""
    kv_heads: int | None = None
    """Heads that share the cache, at least 1, or None if there is no cache."""
    prefill_flops: int = 0
    """Operations for each pair of a prompt's token and a token that it sees, at least 0."""
    decode_flops: int = 0
    """The same for generated tokens."""
    windows: tuple[WindowCache, ...] = ()
    """What it keeps or computes of the last tokens only."""
    state_bytes: int = 0
    """What it keeps of a request, whatever its length, at least 0."""


@dataclass(frozen=True)
class GroupedHeads:
    """Sizes of grouped-query attention."""

    heads: int
    """Query heads, at least 1."""
    kv_heads: int
    """Key and value heads, at least 1."""
    key: int
    """Size of a query or key head, at least 1."""
    value: int
    """Size of a value head, at least 1."""

    @property
    def cache_values(self) -> int:
        """Cached values of one token."""
        return self.kv_heads * (self.key + self.value)

    @property
    def flops(self) -> int:
        """Operations for a pair of tokens: scores, and values weighed with them."""
        return 2 * self.heads * (self.key + self.value)

    def parameters(self, hidden: int) -> int:
        """Values of the four projections."""
        return hidden * (self.heads * (self.key + self.value) + self.cache_values)


@dataclass(frozen=True)
class LatentHeads:
    """Sizes of latent attention."""

    heads: int
    """Query heads, at least 1."""
    query_rank: int | None
    """Size of the compressed query, at least 1, or None if queries are not compressed."""
    kv_rank: int
    """Size of the compressed keys and values, at least 1."""
    rope: int
    """Size of the part of a key with positions, which all heads share, at least 0."""
    plain: int
    """Size of the other part of a head's key, at least 1."""
    value: int
    """Size of a value head, at least 1."""

    @property
    def cache_values(self) -> int:
        """Cached values of one token."""
        return self.kv_rank + self.rope

    @property
    def prefill_flops(self) -> int:
        """Operations for a pair of tokens with keys and values of every head written out, as servers prefill."""
        return 2 * self.heads * (self.plain + self.rope + self.value)

    @property
    def decode_flops(self) -> int:
        """Operations for a pair of tokens on the compressed keys and values, as servers decode."""
        return 2 * self.heads * (2 * self.kv_rank + self.rope)

    def parameters(self, hidden: int) -> int:
        """Values of all projections, compressions included."""
        queries = self.heads * (self.plain + self.rope)
        from_hidden = queries if self.query_rank is None else self.query_rank
        from_query_rank = 0 if self.query_rank is None else self.query_rank * queries
        compressed = self.kv_rank * self.heads * (self.plain + self.value)
        return hidden * (from_hidden + self.cache_values + self.heads * self.value) + from_query_rank + compressed


def grouped_heads(config: Config, hidden: int) -> GroupedHeads:
    """The heads of grouped-query attention. Raises BadInput naming the field that is wrong or missing."""
    heads = number(config, HEADS, MAX_SIZE)
    kv_heads = number(config, KV_HEADS, heads) if present(config, KV_HEADS) else heads
    key = number(config, ("head_dim",), MAX_SIZE) if present(config, ("head_dim",)) else max(1, hidden // heads)
    value = number(config, ("v_head_dim",), MAX_SIZE) if present(config, ("v_head_dim",)) else key
    return GroupedHeads(heads, kv_heads, key, value)


def latent_heads(config: Config) -> LatentHeads:
    """The heads of latent attention. Raises BadInput naming the field that is wrong or missing."""
    rank = present(config, ("q_lora_rank",))
    return LatentHeads(
        heads=number(config, HEADS, MAX_SIZE),
        query_rank=number(config, rank, MAX_SIZE) if rank else None,
        kv_rank=number(config, (LATENT,), MAX_SIZE),
        rope=0 if config.get("qk_rope_head_dim") == 0 else number(config, ("qk_rope_head_dim",), MAX_SIZE),
        plain=number(config, ("qk_nope_head_dim",), MAX_SIZE),
        value=number(config, ("v_head_dim",), MAX_SIZE),
    )
