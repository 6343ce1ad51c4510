"""The fields of one decoder layer: those of the config, and what it states for this layer, or layers of its kind."""

from __future__ import annotations

from typing import Any

from craftc.errors import BadInput
from craftc.models.config_fields import MAX_SIZE, Config, number
from craftc.models.layer_kinds import Kind

_OF_WINDOWS = {
    "swa_num_attention_heads": "num_attention_heads",
    "swa_num_key_value_heads": "num_key_value_heads",
    "swa_head_dim": "head_dim",
    "swa_v_head_dim": "v_head_dim",
    "num_sliding_attention_heads": "num_attention_heads",
}
"""Fields of layers that see the last tokens only, and what each of them stands for (MiMo, Step)."""
_OF_FULL = {"global_head_dim": "head_dim"}
"""Fields of layers that see all of a context (Gemma 4)."""
_BY_LAYER = {"num_attention_heads_per_layer": "num_attention_heads"}
"""Lists with a number for each layer, and what each of them stands for (Laguna)."""


def layer_fields(config: Config, index: int, kind: Kind) -> Config:
    """The fields of decoder layer `index`. Raises BadInput naming the field that does not fit."""
    inner = config.get("attn_config")
    own: dict[str, Any] = {**(inner if isinstance(inner, dict) else {}), **config}  # DBRX
    for named, plain in {"window": _OF_WINDOWS, "full": _OF_FULL}.get(kind, {}).items():
        if config.get(named) is not None:
            own[plain] = number(config, (named,), MAX_SIZE)
    if kind == "full" and config.get("attention_k_eq_v") is True:  # Gemma 4: keys are values too in these layers
        own["num_key_value_heads"] = config.get("num_global_key_value_heads") or config.get("num_key_value_heads")
    else:
        own["attention_k_eq_v"] = False
    if kind == "window":
        own.update(_other_attention(config))
    for named, plain in _BY_LAYER.items():
        if config.get(named) is not None:
            own[plain] = _own_entry(config[named], named, index)
    for key, value in config.items():
        if key.startswith("num_") and key.endswith("_heads") and isinstance(value, list):
            own[key] = _own_entry(value, key, index)
    return own | _stated_for(config, index)


def _other_attention(config: Config) -> dict[str, Any]:
    """Step 3.5: an object with the heads of the layers that see the last tokens only."""
    other = config.get("attention_other_setting")
    if other is None:
        return {}
    if not isinstance(other, dict):
        raise BadInput(f"attention_other_setting must be an object, got {type(other).__name__}")
    return dict(other)


def _own_entry(values: Any, key: str, index: int) -> Any:
    if not isinstance(values, list) or len(values) <= index:
        raise BadInput(f"{key} must hold a number for each decoder layer, got {values!r} (layer {index} has none)")
    return values[index]


def _stated_for(config: Config, index: int) -> dict[str, Any]:
    """`per_layer_config`: fields by decoder index."""
    stated = config.get("per_layer_config")
    if stated is None:
        return {}
    if not isinstance(stated, dict) or any(not isinstance(fields, dict) for fields in stated.values()):
        raise BadInput("per_layer_config must be an object with fields for decoder layers")
    found = [fields for key, fields in stated.items() if str(key).isdigit() and int(key) == index]
    return dict(found[0]) if found else {}
