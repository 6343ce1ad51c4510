"""Bytes of one expert of each layer: as given, else as the checkpoint's files store it, else as its config states it.

What none of these says for sure is refused, naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craftc.errors import BadInput
from craftc.models.checkpoint_headers import quantised_by_name, stored_expert_bytes
from craftc.models.expert_shape import block_paths, expert_shapes
from craftc.models.family_facts import FAMILIES
from craftc.models.given_sizes import GivenSizes
from craftc.models.quantization import quantization_of, stated_quantization
from craftc.models.quantization_settings import GIVE_SIZE
from craftc.models.text_config import TextConfig

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_SCALE_BYTES = 2
"""Bytes of scales and biases in a quantised checkpoint whose config leaves the model's type out, as GPT-OSS's does."""
_TOLERANCE = 0.02
"""Largest difference between stored and stated sizes, as a part of the stored, that packing alone may make."""
_NUMBERED = re.compile(r"experts\\?\.(\d+)")
_CHOSEN = re.compile(r"experts\\?\.[\[(?]|experts\\?\.\\d[^+*]")


@dataclass(frozen=True)
class LayerExperts:
    """The experts of one layer."""

    name: str
    """Path of the experts module, as transformers has it."""
    index: int
    """Decoder index."""
    experts: int
    """Routed experts, at least 2."""
    like: int
    """Decoder index of the layer that the config describes them with: its own, but for layers after the last."""


def expert_bytes_by_layer(
    layers: Sequence[LayerExperts], text: TextConfig, hidden_layers: int, folder: Path | None, given: GivenSizes
) -> list[int]:
    """Bytes of one expert, for each of `layers`.

    hidden_layers: decoder layers that the config describes.
    folder: where the config is, with what lies beside it.

    Raises BadInput, Unsupported.
    """
    known = given.by_index([(layer.name, layer.index) for layer in layers])
    if len(known) == len(layers):
        return [known[layer.index] for layer in layers]
    experts, identities = {layer.index: layer.experts for layer in layers}, text.fields.get("zero_expert_num")
    extra = identities if type(identities) is int else 0
    stored = {} if folder is None else stored_expert_bytes(folder, experts, extra)
    rest = [layer for layer in layers if layer.index not in known and layer.index not in stored]
    stated: dict[int, int] = {}
    if rest:
        config = _StatedSizes(text, hidden_layers, folder)
        stated = {layer.index: config.expert_bytes(layer) for layer in rest}
        named = {} if folder is None else quantised_by_name(folder)
        for layer in rest:
            _check_names(layer, config.is_quantised(layer), named.get(layer.index))
        for layer in layers:
            if layer.index in stored:
                _check_agreement(layer, stored[layer.index], config.expert_bytes(layer), rest[0])
    sizes = {**stated, **stored, **known}
    return [sizes[layer.index] for layer in layers]


def plain_bytes(text: TextConfig) -> int | None:
    """Bytes of a value of the model's own type, or None if no config says it. Raises BadInput for an unknown type."""
    dtype = text.outer("dtype", "torch_dtype")
    if dtype is None:
        return None
    size = DTYPE_BYTES.get(str(dtype).removeprefix("torch."))
    if size is None:
        raise BadInput(f"dtype (or torch_dtype) must be one of {', '.join(DTYPE_BYTES)}, got {dtype!r}; {GIVE_SIZE}")
    return size


class _StatedSizes:
    """The sizes that a config states."""

    def __init__(self, text: TextConfig, hidden_layers: int, folder: Path | None) -> None:
        settings = stated_quantization(text.levels, folder)
        self._facts = FAMILIES.get(text.model_type)
        self._quantization = None if settings is None else quantization_of(*settings)
        self._told_apart = set() if self._quantization is None else _told_apart(self._quantization.names)
        self._plain = plain_bytes(text)
        self._shapes = expert_shapes(text.fields, self._facts, hidden_layers)

    def expert_bytes(self, layer: LayerExperts) -> int:
        """Bytes of one expert of `layer`. Raises BadInput if its experts differ."""
        asked = range(layer.experts) if self._told_apart is None else self._told_apart | {0, layer.experts - 1}
        sizes = {number: self._one(layer, number) for number in sorted(asked) if number < layer.experts}
        small, large = min(sizes, key=lambda e: sizes[e]), max(sizes, key=lambda e: sizes[e])
        if sizes[small] != sizes[large]:
            raise BadInput(
                f"quantization_config: expert {small} of decoder layer {layer.index} has {sizes[small]} bytes, expert "
                f"{large} has {sizes[large]}; experts of one layer must have one size: give it with "
                f"--expert-bytes {layer.index}=SIZE"
            )
        return sizes[small]

    def is_quantised(self, layer: LayerExperts) -> bool:
        """Whether any matrix of the experts of `layer` is stored in another type than the model's own."""
        shape, blocks = self._shapes[layer.like], block_paths(layer.index, self._facts)
        return self._quantization is not None and any(
            self._quantization.matrix_bytes(matrix, _SCALE_BYTES) is not None
            for matrix in shape.matrices(blocks, 0, self._facts is not None)
        )

    def _one(self, layer: LayerExperts, number: int) -> int:
        total, scale = 0, self._plain or _SCALE_BYTES
        shape, blocks = self._shapes[layer.like], block_paths(layer.index, self._facts)
        for matrix in shape.matrices(blocks, number, self._facts is not None):
            size = None if self._quantization is None else self._quantization.matrix_bytes(matrix, scale)
            if size is None and self._plain is None:
                raise BadInput(
                    f"dtype (or torch_dtype) is missing, and the experts are stored in it: add it, or {GIVE_SIZE}"
                )
            total += matrix.values * (self._plain or 0) if size is None else size
        return total + shape.biases * scale


def _told_apart(names: frozenset[str]) -> set[int] | None:
    """The experts that names and patterns of a quantisation tell apart from others, or None if it may be any."""
    if any(_CHOSEN.search(name) for name in names):
        return None
    return {int(number) for name in names for number in _NUMBERED.findall(name)}


def _check_names(layer: LayerExperts, stated: bool, named: bool | None) -> None:
    """Raise BadInput if the names in the checkpoint's index say something else about quantisation than the config."""
    if named is not None and stated != named:
        by_name, by_config = ("are", "are not") if named else ("are not", "are")
        raise BadInput(
            f"experts of decoder layer {layer.index} {by_name} quantised by their names in the checkpoint's index, but "
            f"{by_config} by the config (quantization_config): complete the checkpoint, or {GIVE_SIZE}"
        )


def _check_agreement(layer: LayerExperts, stored: int, stated: int, missing: LayerExperts) -> None:
    """Raise BadInput if files that are there do not bear out the config, which must then speak for the others."""
    if abs(stored - stated) > _TOLERANCE * stored:
        raise BadInput(
            f"an expert of decoder layer {layer.index} has {stored} bytes in the checkpoint's files, {stated} by its "
            f"config; the files of decoder layer {missing.index} are not here: complete the checkpoint, or {GIVE_SIZE}"
        )
