"""Bytes of everything that is not a routed expert, and the types in which matrices are multiplied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from craftc.errors import BadInput, Unsupported
from craftc.models.checkpoint_headers import stored_bytes_beside_experts
from craftc.models.compute_types import ComputeType
from craftc.models.dense_blocks import table_values
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.expert_size import plain_bytes
from craftc.models.quantization import Quantization, quantization_of, stated_quantization
from craftc.models.serving_layers import ServingLayer
from craftc.models.text_config import TextConfig

_ONLY_EXPERTS = ("mxfp4",)
"""Methods that leave everything but routed experts as it is."""
_PART = 0.1
"""Smallest part of the weights that is worth a note if it is multiplied in another type than the rest."""


@dataclass(frozen=True)
class DenseWeights:
    """The weights outside routed experts."""

    total_bytes: int
    """Bytes of all of them, embeddings and head included, at least 1."""
    dtype: ComputeType
    """Type in which most of them are multiplied."""
    notes: tuple[str, ...]
    """What is not sure."""


def dense_weights(
    layers: Sequence[ServingLayer], text: TextConfig, folder: Path | None, experts_by_layer: Mapping[int, int]
) -> DenseWeights:
    """What the files in `folder` hold, else what the config says. Raises BadInput for broken files.

    experts_by_layer: routed experts by decoder index.
    """
    plain, notes = plain_type(text)
    quantization, doubts = _quantization(text, folder)
    kinds: Counter[ComputeType] = Counter()
    stated = 0
    for index, layer in enumerate(layers):
        for matrix in layer.matrices:
            size, kind = matrix.values * _value_bytes(text), plain
            if quantization is not None and not matrix.is_plain:
                size, kind, doubt = _quantised(matrix.in_layer(text.model_type, index), quantization, size, kind)
                doubts += [doubt] if doubt and not doubts else []
            stated += size
            kinds[kind] += matrix.values
    dtype, mixed = _most(kinds)
    identities = text.fields.get("zero_expert_num")
    extra = identities if type(identities) is int else 0
    stored = None if folder is None else stored_bytes_beside_experts(folder, experts_by_layer, extra, len(layers))
    if stored is not None:
        return DenseWeights(stored, dtype, (*notes, *doubts, *mixed))
    tables, unsure = _table_bytes(text, len(layers))
    return DenseWeights(stated + tables, dtype, (*notes, *doubts, *mixed, *unsure))


def _quantised(
    matrix: ExpertMatrix, quantization: Quantization, plain_size: int, plain: ComputeType
) -> tuple[int, ComputeType, str]:
    """Bytes of a matrix and the type in which it is multiplied; what is not known counts as not quantised, and why."""
    try:
        size = quantization.matrix_bytes(matrix, plain_size // matrix.values)
        if size is None:
            return plain_size, plain, ""
        return size, quantization.compute_type(matrix) or plain, ""
    except (BadInput, Unsupported) as error:
        return plain_size, plain, f"weights outside experts are partly taken in the model's own type ({error})"


def plain_type(text: TextConfig) -> tuple[ComputeType, tuple[str, ...]]:
    """The model's own type as servers multiply in it, and what is not sure about it."""
    dtype = text.outer("dtype", "torch_dtype")
    name = str(dtype).removeprefix("torch.")
    if name == "float16":
        return "float16", ()
    if name.startswith("float8"):
        return "float8", ()
    if name == "bfloat16":
        return "bfloat16", ()
    return "bfloat16", (f"dtype is {dtype}, and bfloat16 taken as what servers multiply in",)


def _quantization(text: TextConfig, folder: Path | None) -> tuple[Quantization | None, list[str]]:
    """How matrices outside routed experts are quantised; what is not known counts as not quantised."""
    settings = stated_quantization(text.levels, folder)
    if settings is None:
        return None, []
    stated = {key: value for key, value in settings[0].items() if key != "expert_dtype"}
    if not stated or str(stated.get("quant_method")).lower() in _ONLY_EXPERTS:
        return None, []
    try:
        return quantization_of(stated, settings[1]), []
    except (BadInput, Unsupported) as error:
        return None, [f"weights outside experts are taken in the model's own type ({error})"]


def _table_bytes(text: TextConfig, layers: int) -> tuple[int, list[str]]:
    """Embeddings and head, which are never quantised."""
    tied = text.outer("tie_word_embeddings", "tie_embedding")
    notes = [] if tied is not None else ["tie_word_embeddings is missing: embeddings and head counted as two tables"]
    if len(text.levels) > 1:
        notes.append("of a model with several parts, only the language model is counted")
    return table_values(text.fields, layers, tied is True) * _value_bytes(text), notes


def _value_bytes(text: TextConfig) -> int:
    return plain_bytes(text) or 2


def _most(kinds: Counter[ComputeType]) -> tuple[ComputeType, list[str]]:
    """The type of most weights, and a note if many have another."""
    ranked, total = kinds.most_common(), sum(kinds.values())
    others = [f"{kind} {part / total:.0%}" for kind, part in ranked[1:] if part >= _PART * total]
    if not others:
        return ranked[0][0], []
    share = ranked[0][1] / total
    return ranked[0][0], [
        f"weights outside experts are multiplied in several types, of which the first is taken for all: "
        f"{ranked[0][0]} {share:.0%}, {', '.join(others)}"
    ]
