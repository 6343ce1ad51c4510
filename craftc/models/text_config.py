"""The language model in a Hugging Face `config.json`: at the top, or nested in the config of a multimodal model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from craftc.errors import BadInput, Unsupported

EXPERTS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
    "num_routed_experts",
    "num_moe_experts",
    "moe_num_routed_experts",
    "n_experts",
    "num_of_experts",
)
"""Names of the number of routed experts."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
"""Names of the number of decoder layers."""
_SWITCHES = ("is_moe", "use_moe", "enable_moe_block")
"""Fields that turn experts off."""
_PARTS = ("ffn_config", "moe_config", "moe")
"""Nested dicts that describe the MoE blocks of the model around them (DBRX)."""
_OTHER_KINDS = (
    "vision",
    "visual",
    "vit",
    "image",
    "audio",
    "speech",
    "talker",
    "code_predictor",
    "code2wav",
    "quant",
    "draft",
    "mtp",
)
"""Parts of names of nested configs that are not of the language model."""


@dataclass(frozen=True)
class TextConfig:
    """The language model's fields, and what surrounds them."""

    fields: Mapping[str, Any]
    """Fields of the language model itself."""
    levels: tuple[Mapping[str, Any], ...]
    """`fields`, then every config around them, innermost first: types and quantisation may be stated further out."""
    path: str
    """Where it was found, such as `thinker_config.text_config`; empty for the whole file."""

    @property
    def model_type(self) -> str:
        """The innermost `model_type`."""
        return str(next((level["model_type"] for level in self.levels if level.get("model_type")), None))

    def outer(self, *keys: str) -> Any:
        """The innermost value that is not null, of the first of `keys` at each level."""
        for level in self.levels:
            for key in keys:
                if level.get(key) is not None:
                    return level[key]
        return None


def text_config(document: Mapping[str, Any]) -> TextConfig:
    """The part of a config that has routed experts. Raises BadInput, Unsupported if there is none, or more than one."""
    found = list(_candidates(document, (), ""))
    if not found:
        raise Unsupported(
            f"no field says how many routed experts a layer has ({', '.join(EXPERTS[:4])}; its model_type is "
            f"{document.get('model_type')!r}); to plan from loads alone, give --expert-bytes instead of a config"
        )
    inner = [config for config in found if config.path] or found
    described = {_essence(config.fields) for config in found}
    if len(described) > 1 or len(inner) > 1:
        where = " and ".join(config.path or "the file itself" for config in found)
        raise BadInput(f"{where} both describe a model with routed experts: give a config.json with only one of them")
    return inner[0]


def _candidates(config: Mapping[str, Any], around: tuple[Mapping[str, Any], ...], path: str) -> Iterator[TextConfig]:
    own = _with_parts(config)
    if _has_experts(own) and any(key in own for key in (*LAYERS, "layers_block_type")):
        yield TextConfig(own, (own, *around), path)
    for key, value in config.items():
        if isinstance(value, dict) and key not in _PARTS and not any(kind in key.lower() for kind in _OTHER_KINDS):
            yield from _candidates(value, (config, *around), f"{path}.{key}".lstrip("."))


def _with_parts(config: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = [config[key] for key in _PARTS if isinstance(config.get(key), dict) and _has_experts(config[key])]
    return config if not parts else {**parts[0], **{key: config[key] for key in config if config[key] is not None}}


def _has_experts(config: Mapping[str, Any]) -> bool:
    if any(config.get(key) is False for key in _SWITCHES):
        return False
    return any(config.get(key) not in (None, 0, 1, []) for key in EXPERTS)


def _essence(fields: Mapping[str, Any]) -> str:
    keys = (*EXPERTS, *LAYERS, "hidden_size", "moe_intermediate_size")
    return repr([(key, fields[key]) for key in keys if fields.get(key) is not None])
