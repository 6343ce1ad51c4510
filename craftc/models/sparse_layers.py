"""Which decoder layers are MoE layers: every way in which configs say so.

A list that names each layer decides alone; all other rules must hold together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from craftc.errors import BadInput
from craftc.models.config_fields import MAX_LAYERS, Config, count, number, present

_SPARSE = {"sparse", "moe", "hash_moe", "moe_mlp"}
_DENSE = {"dense", "mlp", "full", "dense_mlp"}
_FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_num_skipped", "n_dense_layers", "dense_mlp_idx")
_STEPS = ("moe_layer_interval", "moe_every_n_layers", "moe_layer_frequency", "moe_frequency")


def sparse_layers(config: Config, layers: int, dense_first: int | None) -> list[int] | None:
    """Decoder indices of the MoE layers, or None if neither the config nor `dense_first` says which.

    dense_first: dense layers at the start of this architecture where its config does not say, or None if not known.

    Raises BadInput naming the field that is wrong.
    """
    for key, read in _LISTS.items():
        if config.get(key) is not None:
            listed = read(config, key, layers)
            if listed is not None:
                return listed
    rules = [rule for keys, rule in _RULES.items() if present(config, keys)]
    if any(key in config for key in _FIRST_DENSE) and not present(config, _FIRST_DENSE):
        rules.append(_after_dense)
    if rules:
        return [index for index in range(layers) if all(rule(config, index, layers) for rule in rules)]
    return None if dense_first is None else list(range(min(dense_first, layers), layers))


def _kinds(config: Config, key: str, layers: int) -> list[int]:
    """`mlp_layer_types`: a word for each layer."""
    kinds = config[key]
    if not isinstance(kinds, list) or len(kinds) < layers:
        raise BadInput(f"{key} must name a kind for each of {layers} layers, got {kinds!r}")
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _SPARSE | _DENSE:
            raise BadInput(f"{key}: kind {kind!r} is not known here ({', '.join(sorted(_SPARSE | _DENSE))})")
    return [index for index, kind in enumerate(kinds[:layers]) if kind in _SPARSE]


def _blocks(config: Config, key: str, layers: int) -> list[int] | None:
    """Nemotron-H: every block is a mixer, an MLP or an MoE; other models' blocks say nothing about MoE."""
    kinds = config[key]
    if not isinstance(kinds, list) or "moe" not in kinds:
        return None
    return [index for index, kind in enumerate(kinds) if kind == "moe"]


def _pattern(config: Config, key: str, layers: int) -> list[int] | None:
    """Nemotron-H in one string: M, E (experts), * and -."""
    pattern = config[key]
    if not isinstance(pattern, str) or "E" not in pattern:
        return None
    if not re.fullmatch(r"[ME*|\-]+", pattern):
        raise BadInput(f"{key} must be made of M, E, * and -, got {pattern!r}")
    return [index for index, kind in enumerate(pattern.replace("|", "")) if kind == "E"]


def _indices(config: Config, key: str, layers: int) -> list[int]:
    """Decoder indices: a list, or numbers between commas."""
    value = config[key]
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", value):
        value = [int(part) for part in value.split(",")]
    if not isinstance(value, list) or any(type(index) is not int or index < 0 for index in value):
        raise BadInput(f"{key} must be a list of decoder layers, got {value!r}")
    return sorted({index for index in value if index < layers})


def _flags(config: Config, key: str, layers: int) -> list[int] | None:
    """`moe_layer_freq` as a list with 1 for every MoE layer; as a number it is a rule."""
    flags = config[key]
    if not isinstance(flags, list):
        return None
    if len(flags) < layers and any(flag not in (0, 1) for flag in flags):
        raise BadInput(f"{key} must hold 0 or 1 for each of {layers} layers, got {flags!r}")
    return [index for index, flag in enumerate(flags[:layers]) if flag]


_LISTS: Mapping[str, Callable[[Config, str, int], list[int] | None]] = {
    "mlp_layer_types": _kinds,
    "layers_block_type": _blocks,
    "hybrid_override_pattern": _pattern,
    "moe_layers_enum": _indices,
    "moe_layers": _indices,
    "moe_layer_indices": _indices,
    "moe_layer_ids": _indices,
    "moe_layer_freq": _flags,
}


def _after_dense(config: Config, index: int, layers: int) -> bool:
    """The first layers are dense."""
    key = next(key for key in _FIRST_DENSE if key in config)
    return index >= count(config, key)


def _every(config: Config, index: int, layers: int) -> bool:
    """DeepSeek: every so many layers, counted from 0."""
    return index % number(config, ("moe_layer_freq",), MAX_LAYERS) == 0


def _every_from_one(config: Config, index: int, layers: int) -> bool:
    """Qwen, Llama 4: every so many layers, counted from 1."""
    return (index + 1) % number(config, ("decoder_sparse_step", "interleave_moe_layer_step"), MAX_LAYERS) == 0


def _not_listed(config: Config, index: int, layers: int) -> bool:
    """Qwen: all but those in a list."""
    listed = config.get("mlp_only_layers") or []
    if not isinstance(listed, list) or any(type(layer) is not int for layer in listed):
        raise BadInput(f"mlp_only_layers must be a list of decoder layers, got {listed!r}")
    return index not in listed


def _period(config: Config, index: int, layers: int) -> bool:
    """Jamba: every so many layers, from an offset on."""
    period = number(config, ("expert_layer_period",), MAX_LAYERS)
    return index % period == (count(config, "expert_layer_offset") if "expert_layer_offset" in config else 0)


def _span(config: Config, index: int, layers: int) -> bool:
    """Ernie: from one layer to another."""
    first = _bound(config, "moe_layer_start_index", 0)
    last = _bound(config, "moe_layer_end_index", layers - 1)
    return first <= index <= (last % layers if last < 0 else last)


def _bound(config: Config, key: str, default: int) -> int:
    value: Any = config.get(key)
    if value is None:
        return default
    if type(value) is not int or value < -1:
        raise BadInput(f"{key} must be a decoder layer, or -1 for the last, got {value!r}")
    return value


def _interval(config: Config, index: int, layers: int) -> bool:
    keys = present(config, _STEPS)
    return not keys or (index + 1) % number(config, keys, MAX_LAYERS) == 0


_RULES: Mapping[tuple[str, ...], Callable[[Config, int, int], bool]] = {
    _FIRST_DENSE: _after_dense,
    ("moe_layer_freq",): _every,
    ("decoder_sparse_step", "interleave_moe_layer_step"): _every_from_one,
    ("mlp_only_layers",): _not_listed,
    ("expert_layer_period",): _period,
    ("moe_layer_start_index", "moe_layer_end_index"): _span,
    _STEPS: _interval,
}
