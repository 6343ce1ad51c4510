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
        if loads.experts != layer.experts:
            raise BadInput(
                f"{source} has {loads.experts} experts, layer {ordinal} ({layer.name}) of the {owner} "
                f"has {layer.experts}: give loads recorded with this model"
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
