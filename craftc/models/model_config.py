"""What planning needs to know about a model, from its Hugging Face `config.json` alone: no weights, no code, no torch.

One line per architecture in `_FAMILIES`. Multi-token-prediction layers are left out: servers place them on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.files.outside_documents import parse_json, read_bytes
from craftc.models.expert_size import DTYPE_BYTES, ExpertShape, Quantization, expert_bytes
from craftc.models.moe_layer import MoELayer

_MAX_LAYERS = 10_000
_MAX_EXPERTS = 65_536
_MAX_SIZE = 2**24


@dataclass(frozen=True)
class ModelConfig:
    """A model as planning sees it."""

    model_type: str
    """`model_type` of the (text) configuration."""
    hidden_layers: int
    """Decoder layers, dense ones included, multi-token-prediction layers excluded."""
    layers: tuple[MoELayer, ...]
    """MoE layers by ordinal, with decoder indices, names as transformers has them, and sizes as in the checkpoint."""
    expert_groups: int | None
    """Groups among which the router chooses before it chooses experts (DeepSeek), or None if there is only one."""
    groups_per_token: int | None
    """Groups that a token's experts come from, or None."""


def read_model_config(path: Path) -> ModelConfig:
    """The model in `path`, a config.json or a folder with one. Raises BadInput, Unsupported for an unknown
    architecture.
    """
    file = path / "config.json" if path.is_dir() else path
    document = parse_json(read_bytes(file), str(file))
    if not isinstance(document, dict):
        raise BadInput(f"{file}: expected a model's config.json, got a {type(document).__name__}")
    try:
        return parse_model_config(document)
    except (BadInput, Unsupported) as error:
        raise type(error)(f"{file}: {error}") from None


def parse_model_config(document: Mapping[str, Any]) -> ModelConfig:
    """The model that a parsed config.json describes; of a multimodal one, its text part."""
    text = document.get("text_config")
    config = {**document, **text} if isinstance(text, dict) else dict(document)
    model_type = str(config.get("model_type"))
    family = _FAMILIES.get(model_type)
    if family is None:
        raise Unsupported(
            f"model_type {model_type!r} is not known here ({', '.join(sorted(_FAMILIES))}); "
            f"give --expert-bytes, or the config as MODEL"
        )
    hidden_layers = _size(config, "num_hidden_layers", _MAX_LAYERS)
    key = next((key for key in family.experts if key in config), family.experts[0])
    experts = _size(config, key, _MAX_EXPERTS)
    top_k = _size(config, family.top_k, experts)
    indices = family.moe_layers(config, hidden_layers)
    if not indices:
        raise BadInput(f"none of its {hidden_layers} decoder layers is an MoE layer")
    names = [f"model.layers.{index}.{family.block}.experts" for index in indices]
    size = expert_bytes(_shape(config, family, names[0]), _quantization(config))
    groups = config.get("n_group")
    return ModelConfig(
        model_type=model_type,
        hidden_layers=hidden_layers,
        layers=tuple(MoELayer(name, index, experts, size, top_k) for name, index in zip(names, indices, strict=True)),
        expert_groups=_size(config, "n_group", experts) if groups not in (None, 1) else None,
        groups_per_token=_size(config, "topk_group", experts) if groups not in (None, 1) else None,
    )


def groups_hint(config: ModelConfig, groups: int, nodes: int) -> tuple[str, ...]:
    """A line about the router's expert groups, if nodes could keep them and the request does not mention them."""
    found = config.expert_groups
    if found is None or groups > 1 or nodes == 1 or found % nodes:
        return ()
    return (f"the model's router has {found} expert groups; --groups {found} keeps each of them on one node",)


def _after_dense(config: Mapping[str, Any], hidden_layers: int) -> list[int]:
    """DeepSeek: the first layers are dense, of the rest every `moe_layer_freq`-th is MoE (or a list says which)."""
    frequency = config.get("moe_layer_freq", 1)
    if isinstance(frequency, list):
        return [index for index, is_moe in enumerate(frequency[:hidden_layers]) if is_moe]
    step = _size(config, "moe_layer_freq", _MAX_LAYERS) if "moe_layer_freq" in config else 1
    dense = config.get("first_k_dense_replace")
    if type(dense) is not int or dense < 0:
        raise BadInput(f"first_k_dense_replace must be a number of layers, got {dense!r}")
    return [index for index in range(dense, hidden_layers) if index % step == 0]


def _sparse_or_after_dense(config: Mapping[str, Any], hidden_layers: int) -> list[int]:
    """GLM-5: a list says dense or sparse; without it, like DeepSeek."""
    types = config.get("mlp_layer_types")
    if not isinstance(types, list):
        return _after_dense(config, hidden_layers)
    return [index for index, kind in enumerate(types[:hidden_layers]) if kind == "sparse"]


def _every_step(config: Mapping[str, Any], hidden_layers: int) -> list[int]:
    """Qwen: every `decoder_sparse_step`-th layer except those in `mlp_only_layers`."""
    step = _size(config, "decoder_sparse_step", _MAX_LAYERS) if "decoder_sparse_step" in config else 1
    dense = config.get("mlp_only_layers") or []
    return [index for index in range(hidden_layers) if (index + 1) % step == 0 and index not in dense]


def _all(config: Mapping[str, Any], hidden_layers: int) -> list[int]:
    return list(range(hidden_layers))


@dataclass(frozen=True)
class _Family:
    """Which key of an architecture's configuration holds which value."""

    experts: tuple[str, ...]
    """Keys of the number of experts: the one in checkpoints, then the one that transformers 5 writes."""
    width: str
    """Key of an expert's intermediate size."""
    moe_layers: Callable[[Mapping[str, Any], int], list[int]]
    """Decoder indices of the MoE layers."""
    block: str = "mlp"
    """Name of the MoE block within a decoder layer."""
    top_k: str = "num_experts_per_tok"
    """Key of the experts per token."""
    biased: bool = False
    """Whether experts have biases."""


_DEEPSEEK = _Family(("n_routed_experts", "num_local_experts"), "moe_intermediate_size", _after_dense)
_GLM = _Family(("n_routed_experts", "num_local_experts"), "moe_intermediate_size", _sparse_or_after_dense)
_QWEN = _Family(("num_experts", "num_local_experts"), "moe_intermediate_size", _every_step)
_MIXTRAL = _Family(("num_local_experts", "num_experts"), "intermediate_size", _all)
_OLMOE = _Family(("num_experts", "num_local_experts"), "intermediate_size", _all)
_FAMILIES: Mapping[str, _Family] = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "dots1": _DEEPSEEK,
    "glm4_moe": _GLM,
    "glm4_moe_lite": _GLM,
    "glm_moe_dsa": _GLM,
    "qwen2_moe": _QWEN,
    "qwen3_moe": _QWEN,
    "qwen3_next": _QWEN,
    "qwen3_vl_moe_text": _QWEN,
    "gpt_oss": replace(_MIXTRAL, biased=True),
    "mixtral": _MIXTRAL,
    "minimax_m2": _MIXTRAL,
    "phimoe": _MIXTRAL,
    "granitemoe": replace(_MIXTRAL, block="block_sparse_moe"),
    "olmoe": _OLMOE,
    "flex_olmo": _OLMOE,
}


def _shape(config: Mapping[str, Any], family: _Family, experts_name: str) -> ExpertShape:
    """Gate, up and down projection of one expert."""
    hidden, width = _size(config, "hidden_size", _MAX_SIZE), _size(config, family.width, _MAX_SIZE)
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype is None and _quantization(config) is not None:
        dtype = "bfloat16"  # quantised checkpoints such as GPT-OSS leave it out; it is the type of scales and biases
    if dtype not in DTYPE_BYTES:
        raise BadInput(f"dtype (or torch_dtype) must be one of {', '.join(DTYPE_BYTES)}, got {dtype!r}")
    return ExpertShape(
        matrices=((width, hidden), (width, hidden), (hidden, width)),
        biases=2 * width + hidden if family.biased else 0,
        dtype_bytes=DTYPE_BYTES[dtype],
        linear_names=tuple(f"{experts_name}.0.{part}" for part in ("gate_proj", "up_proj", "down_proj")),
    )


def _quantization(config: Mapping[str, Any]) -> Quantization | None:
    quantization = config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise BadInput(f"quantization_config must be an object, got {type(quantization).__name__}")
    return quantization


def _size(config: Mapping[str, Any], key: str, largest: int) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= largest:
        raise BadInput(f"{key} must be a whole number in 1..{largest}, got {value!r}")
    return value
