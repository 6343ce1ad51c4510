"""Do these loads belong to these layers? Checked whenever the two come from different files."""

from __future__ import annotations

from collections.abc import Sequence

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer


def check_loads_fit(loads: LoadProfile, layers: Sequence[MoELayer], owner: str) -> None:
    """Raise BadInput unless `loads` has the layers of `owner` (`model`, `plan`), by number, experts and names.

    Layers without names of their own match by position (`layers.0`, `layers.1`, ...) or by decoder index.
    """
    source = loads.provenance or "loads"
    if loads.layers != len(layers):
        raise BadInput(
            f"{source} has {loads.layers} layers, the {owner} has {len(layers)} MoE layers: "
            f"give loads recorded with this model, dense layers left out"
        )
    for ordinal, layer in enumerate(layers):
        own = loads.experts_L[ordinal]
        if own != layer.experts:
            raise BadInput(
                f"{source} has {own} experts{_of_layer(loads, ordinal)}, layer {ordinal} ({layer.name}) of the {owner} "
                f"has {layer.experts}: give loads recorded with this model{_hint(loads, layers)}"
            )
    unnamed = tuple(f"layers.{ordinal}" for ordinal in range(loads.layers))
    by_index = tuple(f"layers.{layer.index}" for layer in layers)
    planned = tuple(layer.name for layer in layers)
    if unnamed in (loads.layer_names, planned) or loads.layer_names in (planned, by_index):
        return
    ordinal = next(number for number, name in enumerate(planned) if name != loads.layer_names[number])
    raise BadInput(
        f"{source}: layer {ordinal} is {loads.layer_names[ordinal]}, the {owner}'s layer {ordinal} is "
        f"{planned[ordinal]}: give loads recorded with this model"
    )


def _of_layer(loads: LoadProfile, ordinal: int) -> str:
    return "" if loads.layer_experts is None else f" in layer {ordinal}"


def _hint(loads: LoadProfile, layers: Sequence[MoELayer]) -> str:
    """What to do about a recording of layers that differ that does not say so."""
    experts = {layer.experts for layer in layers}
    if loads.layer_experts is not None or len(experts) == 1 or max(experts) != loads.experts:
        return ""
    return "; if it was, add an array named experts to the file, with the number of every layer"
