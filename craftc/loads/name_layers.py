"""The layers that loads belong to: from the loads alone, or, with names, from the config of the model."""

from __future__ import annotations

from dataclasses import replace

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_config import ModelConfig, mtp_hint
from craftc.models.moe_layer import MoELayer


def layers_of_loads(loads: LoadProfile, expert_bytes: int | None) -> tuple[MoELayer, ...]:
    """The layers that `loads` describe, with experts of the same size. Raises BadInput without that size."""
    if expert_bytes is None:
        raise BadInput("the size of an expert is not known: give --expert-bytes (such as 84MiB), or the model")
    if expert_bytes < 1:
        raise BadInput(f"expert size must be at least 1 byte, got {expert_bytes}")
    return tuple(
        MoELayer(name, index, experts, expert_bytes, top_k)
        for name, index, experts, top_k in zip(
            loads.layer_names, loads.layer_indices, loads.experts_L, loads.top_k, strict=True
        )
    )


def name_layers(loads: LoadProfile, config: ModelConfig) -> LoadProfile:
    """`loads` with the model's layer names, decoder indices and top-k (those of `recorded_layers`).

    Recordings by decoder index must have the model's indices, and layers after its last decoder layer
    (multi-token prediction) are dropped; recordings by MoE ordinal (0, 1, 2, ...) are taken in order. Raises BadInput
    if the number of layers or experts differs.
    """
    layers = recorded_layers(loads, config)
    if loads.layer_experts is None and loads.experts != layers[0].experts:
        raise BadInput(f"loads are of {loads.experts} experts, the model ({config.model_type}) has {layers[0].experts}")
    indices = tuple(layer.index for layer in layers)
    loads = _decoder_layers(loads, config.hidden_layers)
    if loads.layer_indices not in (indices, tuple(range(len(layers)))):
        odd = sorted(set(loads.layer_indices) ^ set(indices))
        with_mtp = config.mtp_left_out and loads.layers == len(layers) + config.mtp_left_out
        raise BadInput(
            f"loads are of {loads.layers} layers, the model ({config.model_type}) has {len(layers)} MoE layers, "
            f"{indices[0]}..{indices[-1]}; decoder layer {odd[0]} is in only one of the two"
            + ("; with its multi-token-prediction layers they are as many: give --mtp" if with_mtp else "")
        )
    for ordinal, (own, layer) in enumerate(zip(loads.experts_L, layers, strict=True)):
        if own != layer.experts:
            raise BadInput(
                f"loads are of {own} experts in layer {ordinal}, the model ({config.model_type}) has {layer.experts} "
                f"in {layer.name}"
            )
    return replace(
        loads,
        layer_names=tuple(layer.name for layer in layers),
        layer_indices=indices,
        top_k=tuple(layer.top_k for layer in layers),
    )


def recorded_layers(loads: LoadProfile, config: ModelConfig) -> tuple[MoELayer, ...]:
    """The layers of the model that `loads` can have: without the first ones if these have no router, and no loads."""
    first = loads.layer_indices[0]
    without_router = config.layers[: config.hash_layers]
    if without_router and first > without_router[-1].index:
        return config.layers[config.hash_layers :]
    return config.layers


def left_out(loads: LoadProfile, config: ModelConfig) -> tuple[str, ...]:
    """Lines about layers of the model that are not planned for, or dropped from the recording."""
    missing = len(config.layers) - len(recorded_layers(loads, config))
    hashed = (
        f"{loads.provenance or 'the loads'}: the first {missing} MoE layers are routed by token, without loads: they "
        f"keep their experts as they are",
    )
    return (*(hashed if missing else ()), *_mtp_left_out(loads, config))


def _mtp_left_out(loads: LoadProfile, config: ModelConfig) -> tuple[str, ...]:
    """A line about the multi-token-prediction layers that `name_layers` drops, or that are not in `loads`."""
    dropped = [index for index in loads.layer_indices if index >= config.hidden_layers]
    if not dropped or len(dropped) == loads.layers:
        return mtp_hint(config)
    numbers = f"layer {dropped[0]}" if len(dropped) == 1 else f"layers {dropped[0]}..{dropped[-1]}"
    return (
        f"{loads.provenance or 'the loads'}: {numbers} after the last decoder layer (multi-token prediction) left out; "
        f"a server that needs them in the placement takes a plan made with --mtp",
    )


def _decoder_layers(loads: LoadProfile, hidden_layers: int) -> LoadProfile:
    """`loads` without layers after the model's last decoder layer."""
    kept = [ordinal for ordinal, index in enumerate(loads.layer_indices) if index < hidden_layers]
    if len(kept) in (0, loads.layers):
        return loads
    return loads.select_layers(kept)
