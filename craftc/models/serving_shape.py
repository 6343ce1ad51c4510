"""What a server needs to know of a model to say how long a step takes and how much memory is left for KV cache.

Norms and biases, which are vectors, are left out: all together they are less than a thousandth of the weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from craftc.errors import BadInput
from craftc.models.attention_shape import Mixer, WindowCache
from craftc.models.compute_types import ComputeType
from craftc.models.config_fields import HIDDEN, MAX_SIZE, number
from craftc.models.dense_weights import dense_weights
from craftc.models.expert_compute_type import expert_compute_type
from craftc.models.expert_shape import expert_shapes
from craftc.models.family_facts import FAMILIES
from craftc.models.kv_cache_type import kv_value_bytes
from craftc.models.model_config import ModelConfig, decoder_layers
from craftc.models.serving_layers import serving_layers


@dataclass(frozen=True)
class ServingShape:
    """A model as a server sees it."""

    hidden: int
    """Size of what goes from layer to layer, at least 1."""
    decoder_layers: int
    """Decoder layers, at least 1."""
    kv_bytes_per_token: int
    """KV cache for each token of a context, over all layers that keep the whole of it, at least 0."""
    kv_heads: int
    """Heads among which tensor parallelism can split the cache, at least 1; 1 for latent attention. Of layers that
    differ, the fewest.
    """
    windows: tuple[WindowCache, ...]
    """What layers keep or compute of some tokens only, by their number. With an indexer, these are the tokens that it
    chooses, whose cache is in `kv_bytes_per_token`. A chunk counts as a window of its size.
    """
    state_bytes: int
    """What layers without KV cache keep of a request, at least 0."""
    score_flops_per_pair: int
    """Operations in prefill for each pair of a token and a token of its context, at least 0: attention that sees all of
    it, and indexers.
    """
    decode_score_flops_per_pair: int
    """The same for generated tokens, where latent attention works on compressed keys and values, at least 0."""
    dense_parameters: int
    """Weights outside routed experts that every token is multiplied with, without embeddings and head, at least 1."""
    dense_bytes: int
    """Bytes of everything outside the routed experts, embeddings and head included, at least 1."""
    dense_dtype: ComputeType
    """Type in which (most) matrices outside the routed experts are multiplied."""
    expert_dtype: ComputeType
    """Type in which (most) routed experts are multiplied."""
    expert_parameters: tuple[int, ...]
    """Weights of one routed expert of every MoE layer, each at least 1."""
    notes: tuple[str, ...] = ()
    """What could not be read for sure, and what was taken instead; a sentence each."""

    def __post_init__(self) -> None:
        for name in ("hidden", "decoder_layers", "kv_heads", "dense_parameters", "dense_bytes"):
            if getattr(self, name) < 1:
                raise BadInput(f"serving shape: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("kv_bytes_per_token", "state_bytes", "score_flops_per_pair", "decode_score_flops_per_pair"):
            if getattr(self, name) < 0:
                raise BadInput(f"serving shape: {name} must not be negative, got {getattr(self, name)}")
        if not self.expert_parameters or min(self.expert_parameters) < 1:
            raise BadInput(f"serving shape: expert_parameters must each be at least 1, got {self.expert_parameters}")


def serving_shape(model: ModelConfig) -> ServingShape:
    """What serving `model` takes. Raises BadInput, Unsupported naming the field that is missing or not understood."""
    if model.text is None:
        raise BadInput("what serving a model takes is read from its config.json: give one (--model-config)")
    text, facts = model.text, FAMILIES.get(model.text.model_type)
    layers = decoder_layers(text)
    experts = {layer.index: layer.experts for layer in model.layers}
    value_bytes = kv_value_bytes(text.levels, model.folder)
    found = serving_layers(text.fields, text.model_type, layers, experts, value_bytes)
    mixers = [mixer for layer in found for mixer in layer.mixers]
    shapes_by_index = expert_shapes(text.fields, facts, layers)
    shapes = [shapes_by_index[min(layer.index, layers - 1)] for layer in model.layers]
    dense = dense_weights(found, text, model.folder, experts)
    expert_dtype, notes = expert_compute_type(model, text, shapes)
    return ServingShape(
        hidden=number(text.fields, HIDDEN, MAX_SIZE),
        decoder_layers=len(found),
        kv_bytes_per_token=sum(mixer.kv_bytes for mixer in mixers),
        kv_heads=min((mixer.kv_heads for mixer in mixers if mixer.kv_heads is not None), default=1),
        windows=_windows(mixers),
        state_bytes=sum(mixer.state_bytes for mixer in mixers),
        score_flops_per_pair=sum(mixer.prefill_flops for mixer in mixers),
        decode_score_flops_per_pair=sum(mixer.decode_flops for mixer in mixers),
        dense_parameters=sum(matrix.values for layer in found for matrix in layer.matrices),
        dense_bytes=dense.total_bytes,
        dense_dtype=dense.dtype,
        expert_dtype=expert_dtype,
        expert_parameters=tuple(shape.parameters for shape in shapes),
        notes=dense.notes + notes,
    )


def _windows(mixers: list[Mixer]) -> tuple[WindowCache, ...]:
    """One entry for each number of tokens."""
    kept: Counter[int] = Counter()
    flops: Counter[int] = Counter()
    for window in (window for mixer in mixers for window in mixer.windows):
        kept[window.tokens] += window.bytes_per_token
        flops[window.tokens] += window.score_flops_per_pair
    return tuple(WindowCache(tokens, kept[tokens], flops[tokens]) for tokens in sorted(kept))
