"""True sizes of the experts of a model that was built from a Hugging Face config or checkpoint.

Its parameters are in the config's own type, whatever the checkpoint's quantisation; what is served is the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, CraftcError, Unsupported
from craftc.models.given_sizes import GivenSizes, resized
from craftc.models.model_config import mtp_hint, read_config_document, read_model_config
from craftc.models.moe_layer import MoELayer

_QUANTISED = ("quantization_config", "compression_config")
_DTYPE = ("dtype", "torch_dtype")


def true_sizes(spec: str, layers: tuple[MoELayer, ...], given: GivenSizes) -> tuple[MoELayer, ...]:
    """`layers` of the model that `spec` names, with the sizes given, else stored, else stated; `model.py` means its
    parameters.

    Raises BadInput, Unsupported if a checkpoint's sizes are not known.
    """
    path = _config_path(spec)
    sized = given.by_index([(layer.name, layer.index) for layer in layers])
    if path is None or len(sized) == len(layers):
        return resized(layers, given)
    try:
        config = read_model_config(path, GivenSizes(by_layer={str(index): size for index, size in sized.items()}))
    except (BadInput, Unsupported):
        if not _is_stored_as_built(path):
            raise
        return resized(layers, given)
    stated = {layer.index: layer for layer in config.layers}
    for layer in layers:
        other = stated.get(layer.index)
        if other is None or other.experts != layer.experts:
            if _is_stored_as_built(path):
                return resized(layers, given)
            raise Unsupported(
                f"{path}: layer {layer.name} has {layer.experts} experts in the model, "
                f"{'none' if other is None else other.experts} in decoder layer {layer.index} of the config; "
                f"give the size of one expert with --expert-bytes"
            )
    return tuple(replace(layer, expert_bytes=stated[layer.index].expert_bytes) for layer in layers)


def guessed_type(spec: str) -> tuple[str, ...]:
    """A line about the type of weights that `spec` does not state, if its sizes depend on that."""
    path = _config_path(spec)
    if path is None or path.is_dir():
        return ()
    levels = list(_levels(read_config_document(path)[0]))
    if _states_quantisation(path, levels) or _values(levels, _DTYPE):
        return ()
    return ("dtype (or torch_dtype) is missing in the config: sizes are those of float32, which transformers assumes",)


def mtp_beside(spec: str) -> tuple[str, ...]:
    """A line about multi-token-prediction layers in the config that `spec` names: transformers does not build them."""
    path = _config_path(spec)
    try:
        return () if path is None else mtp_hint(read_model_config(path, GivenSizes(1)))
    except CraftcError:  # a structure that only building it shows
        return ()


def _config_path(spec: str) -> Path | None:
    path = Path(spec)
    return path if path.is_dir() or path.suffix == ".json" else None


def _is_stored_as_built(path: Path) -> bool:
    """Whether nothing says that experts are stored in another type than that in which the model was built."""
    levels = list(_levels(read_config_document(path)[0]))
    return not _states_quantisation(path, levels) and bool(path.is_dir() or _values(levels, _DTYPE))


def _states_quantisation(path: Path, levels: list[Mapping[str, Any]]) -> bool:
    folder = path if path.is_dir() else path.parent
    return bool(_values(levels, _QUANTISED)) or (folder / "hf_quant_config.json").is_file()


def _levels(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _levels(value)


def _values(levels: list[Mapping[str, Any]], keys: tuple[str, ...]) -> list[Any]:
    return [level[key] for level in levels for key in keys if level.get(key)]
