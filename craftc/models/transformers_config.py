"""The config.json of a Hugging Face model as the configuration class of transformers that fits it, and the class of its
text model.

Code that comes with a checkpoint is never run: what transformers does not know by `model_type` is found by the
`architectures` that the file names, or in the part of it that describes the language model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.files.outside_documents import parse_settings, read_bytes
from craftc.models.text_config import text_config

_DTYPES = ("dtype", "torch_dtype")
_ADVICE = "plan from its loads with --model-config, or write a file with build_model()"


def read_text_config(path: Path) -> Any:
    """The configuration of the text part of the model in `path`. Raises BadInput, and Unsupported for a model that
    transformers does not know.
    """
    document = parse_settings(read_bytes(path), str(path))
    if not isinstance(document, dict):
        raise BadInput(f"model {path}: expected a model's config.json, got a {type(document).__name__}")
    fields, model_type = _known_part(document, path)
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type].from_dict(_plain(fields))
    text = config.get_text_config(decoder=True)
    text.dtype = text.dtype or config.dtype  # a nested config takes its dtype from the outer one
    return text


def text_model_class(config: Any, where: str) -> Any:
    """The class that builds the text model of `config`: for text generation if there is one. Raises Unsupported."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    classes = sorted(_classes_of(type(config)), key=lambda model: len(model.__mro__))
    if not classes:
        raise Unsupported(
            f"model {where}: transformers has no text model for {type(config).__name__}; "
            f"write a file with build_model()"
        )
    return classes[0]


def _known_part(document: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], str]:
    """The part of a config that transformers has a class for, and its model type."""
    if (model_type := _known_type(document)) is not None:
        return document, model_type
    try:
        text = text_config(document)
    except (BadInput, Unsupported) as error:
        raise type(error)(f"model {path}: {error}") from None
    if text.path and (model_type := _known_type(text.fields)) is not None:
        stated = {key: value for key, value in text.fields.items() if value is not None or key not in _DTYPES}
        return {"dtype": text.outer(*_DTYPES), **stated}, model_type
    raise Unsupported(
        f"model {path}: model_type {document.get('model_type')!r} is not known to transformers, nor are its "
        f"architectures {document.get('architectures')!r}; {_ADVICE}"
    )


def _known_type(fields: Mapping[str, Any]) -> str | None:
    """The model type by which transformers knows these fields."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if fields.get("model_type") in CONFIG_MAPPING:
        return str(fields["model_type"])
    architectures = fields.get("architectures") or []
    return next((kind for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if name in architectures), None)


def _plain(value: Any) -> Any:
    """`value` as configuration classes take it, at every depth: `torch.bfloat16` as `bfloat16`, and the
    `{"__float__": "Infinity"}` that transformers writes as a float.
    """
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"}:
        return float(value["__float__"])
    return {
        key: inner.removeprefix("torch.") if key in _DTYPES and isinstance(inner, str) else _plain(inner)
        for key, inner in value.items()
    }


def _classes_of(config_class: type) -> Iterator[type]:
    """Models of a configuration class that take tokens, where transformers maps it to none."""
    from transformers import PreTrainedModel

    module = importlib.import_module(config_class.__module__.replace(".configuration_", ".modeling_"))
    for model in vars(module).values():
        is_model = isinstance(model, type) and issubclass(model, PreTrainedModel)
        if (
            is_model
            and model.config_class is config_class
            and "input_ids" in inspect.signature(model.forward).parameters
        ):
            yield model
