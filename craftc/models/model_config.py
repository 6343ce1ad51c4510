"""What planning needs to know about a model, from its Hugging Face `config.json` and what lies beside it: no weights,
no code, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.files.outside_documents import parse_settings, read_bytes
from craftc.models.config_fields import MAX_EXPERTS, MAX_LAYERS, TOP_K, WIDTH, Config, count, number, numbers, present
from craftc.models.expert_size import LayerExperts, expert_bytes_by_layer
from craftc.models.family_facts import FAMILIES, UNKNOWN, FamilyFacts
from craftc.models.given_sizes import GivenSizes
from craftc.models.moe_layer import MoELayer
from craftc.models.sparse_layers import sparse_layers
from craftc.models.text_config import EXPERTS, LAYERS, TextConfig, text_config

NO_SIZES = GivenSizes()
_MTP = (
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "mtp_num_layers",
    "mtp_num_hidden_layers",
    "num_mtp_modules",
    "n_mtp_layers",
)
"""Names of the number of multi-token-prediction layers."""


@dataclass(frozen=True)
class ModelConfig:
    """A model as planning sees it."""

    model_type: str
    """`model_type` of the (text) configuration."""
    hidden_layers: int
    """Decoder layers, dense ones included; multi-token-prediction layers only if `layers` has them."""
    layers: tuple[MoELayer, ...]
    """MoE layers by ordinal, with decoder indices, names as transformers has them, and sizes as in the checkpoint."""
    expert_groups: int | None
    """Groups among which the router chooses before it chooses experts (DeepSeek), or None if there is only one."""
    groups_per_token: int | None
    """Groups that a token's experts come from, or None."""
    hash_layers: int = 0
    """First MoE layers whose experts are chosen by token, without a router: servers record no loads of them."""
    mtp_left_out: int = 0
    """Multi-token-prediction layers that the config has after the last decoder layer, and `layers` has not."""
    text: TextConfig | None = field(default=None, repr=False, compare=False)
    """All that the config says of the language model, for serving; None if there is no config."""
    folder: Path | None = field(default=None, repr=False, compare=False)
    """Where the config was read, with what lies beside it, or None."""


def read_model_config(path: str | Path, given: GivenSizes = NO_SIZES) -> ModelConfig:
    """Read what planning and serving need to know of a model: no weights, no code, no torch.

    path: a config.json or a folder with one; what lies beside it is read as well.
    given: sizes of experts that the user states; they decide.

    Raises BadInput naming the field that is wrong or missing, Unsupported for a quantisation that is not known.
    """
    return _read(Path(path), given, parse_model_config)


def read_model_config_with_mtp(path: Path, given: GivenSizes = NO_SIZES) -> ModelConfig:
    """Like `read_model_config`, with the multi-token-prediction layers as MoE layers after the last decoder layer."""
    return _read(path, given, parse_model_config_with_mtp)


def read_config_document(path: Path) -> tuple[dict[str, Any], Path]:
    """The fields of a config.json, or of the one in a folder, and the file. Raises BadInput."""
    file = path / "config.json" if path.is_dir() else path
    document = parse_settings(read_bytes(file), str(file))
    if not isinstance(document, dict):
        raise BadInput(f"{file}: expected a model's config.json, got a {type(document).__name__}")
    return document, file


def parse_model_config(
    document: Mapping[str, Any], folder: Path | None = None, given: GivenSizes = NO_SIZES
) -> ModelConfig:
    """The model that a parsed config.json describes; of a multimodal one, its text part.

    folder: where it was read, with what lies beside it.
    """
    text = text_config(document)
    return replace(_parsed(text, range(0), folder, given), mtp_left_out=_mtp_layers(text))


def parse_model_config_with_mtp(
    document: Mapping[str, Any], folder: Path | None = None, given: GivenSizes = NO_SIZES
) -> ModelConfig:
    """Like `parse_model_config`, with the multi-token-prediction layers: experts like those of the last MoE layer."""
    text = text_config(document)
    layers = _mtp_layers(text)
    if not layers:
        raise BadInput(f"no field says that the model has multi-token-prediction layers ({_MTP[0]}): leave --mtp out")
    hidden_layers = decoder_layers(text)
    return _parsed(text, range(hidden_layers, hidden_layers + layers), folder, given)


def groups_hint(config: ModelConfig, groups: int, nodes: int) -> tuple[str, ...]:
    """A line about the router's expert groups, if nodes could keep them and the request does not mention them."""
    found = config.expert_groups
    if found is None or groups > 1 or nodes == 1 or found % nodes:
        return ()
    return (f"the model's router has {found} expert groups; --groups {found} keeps each of them on one node",)


def mtp_hint(config: ModelConfig) -> tuple[str, ...]:
    """A line about the multi-token-prediction layers that `config` leaves out, if there are any."""
    if not config.mtp_left_out:
        return ()
    last = config.hidden_layers + config.mtp_left_out - 1
    numbers = f"layer {last}" if config.mtp_left_out == 1 else f"layers {config.hidden_layers}..{last}"
    return (
        f"the model has multi-token prediction ({numbers}), left out here; if the server runs it with experts of its "
        f"own, record its loads and plan with --model-config and --mtp",
    )


def _read(path: Path, given: GivenSizes, parse: Callable[..., ModelConfig]) -> ModelConfig:
    document, file = read_config_document(path)
    try:
        return parse(document, file.parent, given)
    except (BadInput, Unsupported) as error:
        raise type(error)(f"{file}: {error}") from None


def _parsed(text: TextConfig, mtp: range, folder: Path | None, given: GivenSizes) -> ModelConfig:
    config, facts = text.fields, FAMILIES.get(text.model_type, UNKNOWN)
    hidden_layers = decoder_layers(text)
    experts_of = numbers(config, present(config, EXPERTS), MAX_EXPERTS, hidden_layers)
    indices = [index for index in _sparse_layers(text, facts, hidden_layers) if experts_of[index] > 1]
    if not indices:
        raise BadInput(f"none of its {hidden_layers} decoder layers is an MoE layer")
    like = {index: index for index in indices} | dict.fromkeys(mtp, indices[-1])
    experts = [LayerExperts(_name(facts, index), index, experts_of[model], model) for index, model in like.items()]
    sizes = expert_bytes_by_layer(experts, text, hidden_layers, folder, given)
    top_k = [_top_k(config, hidden_layers, model, experts_of[model]) for model in like.values()]
    groups = _expert_groups(config)
    return ModelConfig(
        model_type=text.model_type,
        hidden_layers=hidden_layers + len(mtp),
        layers=tuple(
            MoELayer(layer.name, layer.index, layer.experts, size, chosen)
            for layer, size, chosen in zip(experts, sizes, top_k, strict=True)
        ),
        expert_groups=groups,
        groups_per_token=None if groups is None else number(config, ("topk_group",), groups),
        hash_layers=_hash_layers(config),
        text=text,
        folder=folder,
    )


def decoder_layers(text: TextConfig) -> int:
    """Decoder layers, without multi-token prediction. Raises BadInput, Unsupported for an encoder and decoder."""
    config, facts = text.fields, FAMILIES.get(text.model_type, UNKNOWN)
    if config.get("is_encoder_decoder") is True or any(key.startswith("num_sparse_") for key in config):
        raise Unsupported(
            f"model_type {text.model_type!r} is an encoder and a decoder; give --expert-bytes and no model"
        )
    if not present(config, LAYERS) and isinstance(config.get("layers_block_type"), list):
        return len(config["layers_block_type"])
    return number(config, LAYERS if facts.layers is None else (facts.layers,), MAX_LAYERS)


def _sparse_layers(text: TextConfig, facts: FamilyFacts, hidden_layers: int) -> list[int]:
    config = text.fields
    # Where all experts have the only intermediate size that there is, no layer can be dense.
    alike = not present(config, WIDTH) and FAMILIES.get(text.model_type) is None
    found = sparse_layers(config, hidden_layers, 0 if alike else facts.dense_first)
    if found is None:
        raise BadInput(
            f"model_type {text.model_type!r}: no field says which of its {hidden_layers} layers have experts "
            f"(first_k_dense_replace, decoder_sparse_step, mlp_layer_types and others); add the one that is true"
        )
    return found


def _name(facts: FamilyFacts, index: int) -> str:
    return ".".join(part for part in (facts.stack, str(index), facts.block, "experts") if part)


def _top_k(config: Config, hidden_layers: int, index: int, experts: int) -> int | None:
    """Experts per token, if the config says how many."""
    names = present(config, TOP_K)
    if not names:
        return None
    value = numbers(config, names, MAX_EXPERTS, hidden_layers)[index]
    return number({names[0]: value}, names[:1], experts)


def _hash_layers(config: Config) -> int:
    """DeepSeek-V4: a number, or kinds of layers."""
    if config.get("num_hash_layers") is not None:
        return count(config, "num_hash_layers")
    kinds = config.get("mlp_layer_types")
    return kinds.count("hash_moe") if isinstance(kinds, list) else 0


def _expert_groups(config: Config) -> int | None:
    for name in ("n_group", "num_expert_group"):
        if config.get(name) not in (None, 0, 1):
            return number(config, (name,), MAX_EXPERTS)
    return None


def _mtp_layers(text: TextConfig) -> int:
    """Multi-token-prediction layers that the config says the model has."""
    for name in _MTP:
        value = text.outer(name)
        if value is not None:
            return count({name: value}, name)
    return 0
