"""What mixes tokens in every decoder layer: every way in which configs say which layers see all of a context."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from craftc.errors import BadInput, Unsupported
from craftc.models.config_fields import MAX_LAYERS, Config, count, number, present

Kind = Literal["full", "window", "indexed", "recurrent", "none"]
"""`window` sees the last tokens, `indexed` those that an indexer chooses, `recurrent` keeps a state; `none`: an MLP."""

_WORDS: Mapping[str, Kind] = {
    **dict.fromkeys(("full_attention", "attention", "full", "global", "global_attention"), "full"),
    **dict.fromkeys(("sliding_attention", "chunked_attention", "sliding", "local", "local_attention"), "window"),
    "indexed_attention": "indexed",
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "recurrent"), "recurrent"),
    **dict.fromkeys(("moe", "mlp"), "none"),
}
_LETTERS: Mapping[str, Kind] = {"M": "recurrent", "*": "full", "E": "none", "-": "none"}
_NO_ROPE_INTERVAL = 4
"""Layers from one that sees all of a context to the next in Llama 4, as transformers' Llama4TextConfig has it."""
_NEMOTRON = re.compile(r"[ME*|\-]+")


def layer_kinds(config: Config, layers: int, must_say: str | None) -> list[Kind]:
    """The kind of each of `layers` decoder layers.

    must_say: the field that says it in configs of this architecture, whose layers differ; None if they may be alike.

    Raises BadInput naming the field that is wrong or missing, Unsupported for a kind that is not known.
    """
    if config.get("sparse_attention_config"):
        raise Unsupported("sparse_attention_config: what sparse attention with blocks takes is not known here")
    has_windows = bool(present(config, WINDOW))
    for key, read in _FIELDS.items():
        if config.get(key) not in (None, [], "", {}) and (has_windows or key not in _OF_WINDOWS):
            return _indexed(config, read(config, key, layers))
    if config.get("no_rope_layers") == [] and has_windows:  # Llama 4 leaves the rule to transformers
        return ["full" if (index + 1) % _NO_ROPE_INTERVAL == 0 else "window" for index in range(layers)]
    if must_say is not None:
        raise BadInput(f"{must_say} is missing: it says which layers see all of a context; add it")
    for key in ("hybrid_layer_ids", "layer_group_size", "attention_types", "layer_type"):
        if config.get(key) not in (None, 1, [], ""):
            raise Unsupported(f"{key} {config[key]!r}: which layers see all of a context is not known here")
    if config.get("use_sliding_window") is False or not has_windows:
        return _indexed(config, ["full"] * layers)
    if config.get("use_sliding_window") is True and config.get("max_window_layers") is not None:
        first = count(config, "max_window_layers")
        return ["full" if index < first else "window" for index in range(layers)]
    return ["window"] * layers


WINDOW = ("sliding_window", "sliding_window_size", "attention_chunk_size", "local_window_size")
"""Names of the number of tokens that a layer sees which does not see all."""


def _indexed(config: Config, kinds: list[Kind]) -> list[Kind]:
    """An indexer is in every layer that would see all of a context."""
    if config.get("index_topk") is None:
        return kinds
    return ["indexed" if kind == "full" else kind for kind in kinds]


def _words(config: Config, key: str, layers: int) -> list[Kind]:
    words = config[key]
    if not isinstance(words, list) or len(words) < layers:
        raise BadInput(f"{key} must name a kind for each of {layers} layers, got {words!r}")
    for word in words:
        if not isinstance(word, str) or word not in _WORDS:
            raise Unsupported(f"{key}: what a layer of kind {word!r} takes in serving is not known here")
    return [_WORDS[word] for word in words[:layers]]


def _letters(config: Config, key: str, layers: int) -> list[Kind]:
    pattern = config[key]
    if not isinstance(pattern, str) or not _NEMOTRON.fullmatch(pattern) or len(pattern.replace("|", "")) < layers:
        raise BadInput(f"{key} must have one of M, E, * and - for each of {layers} layers, got {pattern!r}")
    return [_LETTERS[letter] for letter in pattern.replace("|", "")[:layers]]


def _numbered(config: Config, key: str, layers: int) -> list[Kind]:
    """Kimi-Linear: lists of layers, counted from 1."""
    inner = config[key]
    full = inner.get("full_attn_layers") if isinstance(inner, dict) else None
    if not isinstance(full, list) or any(type(index) is not int or index < 1 for index in full):
        raise BadInput(f"{key}: full_attn_layers must be a list of layers, counted from 1, got {full!r}")
    return ["full" if index + 1 in full else "recurrent" for index in range(layers)]


def _flags(full: int, other: Kind) -> Callable[[Config, str, int], list[Kind]]:
    """A number for each layer: `full` for those that see all of a context, another for those of kind `other`."""

    def read(config: Config, key: str, layers: int) -> list[Kind]:
        flags = config[key]
        if not isinstance(flags, list) or len(flags) < layers or any(flag not in (0, 1) for flag in flags):
            raise BadInput(f"{key} must hold 0 or 1 for each of {layers} layers, got {flags!r}")
        return ["full" if flag == full else other for flag in flags[:layers]]

    return read


def _every(other: Kind) -> Callable[[Config, str, int], list[Kind]]:
    """Every so many layers see all of a context, the last of each group; the others are of kind `other`."""

    def read(config: Config, key: str, layers: int) -> list[Kind]:
        if isinstance(config[key], str):
            return _repeated(config, key, layers)
        every = number(config, (key,), MAX_LAYERS)
        return ["full" if (index + 1) % every == 0 else other for index in range(layers)]

    return read


def _repeated(config: Config, key: str, layers: int) -> list[Kind]:
    """EXAONE: `LLLG`, repeated; the last layer sees all of a context."""
    pattern = config[key]
    if not re.fullmatch("[LG]+", pattern):
        raise BadInput(f"{key} must be a number, or made of L and G, got {pattern!r}")
    kinds: list[Kind] = ["full" if pattern[index % len(pattern)] == "G" else "window" for index in range(layers)]
    return [*kinds[:-1], "full"]


def _period(config: Config, key: str, layers: int) -> list[Kind]:
    """Jamba: every so many layers, from an offset on."""
    period = number(config, (key,), MAX_LAYERS)
    offset = count(config, "attn_layer_offset") if "attn_layer_offset" in config else 0
    return ["full" if index % period == offset else "recurrent" for index in range(layers)]


def _listed(config: Config, key: str, layers: int) -> list[Kind]:
    """LFM2: decoder indices."""
    full = config[key]
    if not isinstance(full, list) or any(type(index) is not int or index < 0 for index in full):
        raise BadInput(f"{key} must be a list of decoder layers, got {full!r}")
    return ["full" if index in full else "recurrent" for index in range(layers)]


_FIELDS: Mapping[str, Callable[[Config, str, int], list[Kind]]] = {
    "layer_types": _words,
    "layers_block_type": _words,
    "hybrid_override_pattern": _letters,
    "linear_attn_config": _numbered,
    "hybrid_layer_pattern": _flags(0, "window"),
    "attn_type_list": _flags(1, "recurrent"),
    "attn_layer_period": _period,
    "full_attn_idxs": _listed,
    "full_attention_interval": _every("recurrent"),
    "sliding_window_pattern": _every("window"),
    "global_attn_every_n_layers": _every("window"),
    "no_rope_layers": _flags(0, "window"),
    "no_rope_layer_interval": _every("window"),
}
"""Fields that say it, in the order in which they are asked; the first that is there decides."""
_OF_WINDOWS = {
    "sliding_window_pattern", "global_attn_every_n_layers", "no_rope_layers", "no_rope_layer_interval",
}  # fmt: skip
"""Those that say nothing if no field says how many tokens a window has."""
