"""Sizes of experts that a user states: one for all layers, others for some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from craftc.errors import BadInput
from craftc.models.moe_layer import MoELayer
from craftc.units import parse_size


@dataclass(frozen=True)
class GivenSizes:
    """What `--expert-bytes` says."""

    every: int | None = None
    """Bytes of one expert in all layers that are not in `by_layer`, or None if that is not given."""
    by_layer: Mapping[str, int] = field(default_factory=dict)
    """Bytes of one expert by the layer's name, or by its decoder index in decimal digits."""

    def by_index(self, layers: Sequence[tuple[str, int]]) -> dict[int, int]:
        """Sizes by decoder index, for those of `layers` (name and index) that have one.

        Raises BadInput for a layer that is not among them, or is given by name and by index.
        """
        names = {name for name, _ in layers} | {str(index) for _, index in layers}
        for name in self.by_layer:
            if name not in names:
                indices = [index for _, index in layers]
                raise BadInput(
                    f"--expert-bytes {name}=...: no such MoE layer; give a layer's name ({layers[0][0]}), "
                    f"or its decoder index ({min(indices)}..{max(indices)})"
                )
        found = {}
        for name, index in layers:
            own = [self.by_layer[key] for key in (name, str(index)) if key in self.by_layer]
            if len(own) > 1:
                raise BadInput(f"--expert-bytes gives layer {name} twice, by its name and by its index {index}")
            size = own[0] if own else self.every
            if size is not None:
                found[index] = size
        return found

    def __bool__(self) -> bool:
        return self.every is not None or bool(self.by_layer)


def parse_given_sizes(options: Sequence[str]) -> GivenSizes:
    """`84MiB`, or `model.layers.3.mlp.experts=84MiB`, or `3=84MiB`, in any number. Raises BadInput."""
    every: int | None = None
    by_layer: dict[str, int] = {}
    for option in options:
        layer, separator, size = option.rpartition("=")
        bytes_ = parse_size(size)
        if bytes_ < 1:
            raise BadInput(f"expert size must be at least 1 byte, got {size}")
        if separator and not layer:
            raise BadInput(f"--expert-bytes {option}: no layer before the =; give LAYER=SIZE, or SIZE for all layers")
        if (by_layer.get(layer) if separator else every) is not None:
            what = f"layer {layer}" if separator else "all layers"
            raise BadInput(f"--expert-bytes gives {what} twice")
        if separator:
            by_layer[layer] = bytes_
        else:
            every = bytes_
    return GivenSizes(every, by_layer)


def resized(layers: Sequence[MoELayer], given: GivenSizes) -> tuple[MoELayer, ...]:
    """`layers` with the sizes that are given, and their own where none is."""
    sizes = given.by_index([(layer.name, layer.index) for layer in layers])
    return tuple(replace(layer, expert_bytes=sizes.get(layer.index, layer.expert_bytes)) for layer in layers)


def sized(layers: Sequence[MoELayer], given: GivenSizes) -> tuple[MoELayer, ...]:
    """`layers`, of which nobody else knows the sizes. Raises BadInput unless one is given for each of them."""
    if not given:
        raise BadInput("the size of an expert is not known: give --expert-bytes (such as 84MiB), or the model")
    sizes = given.by_index([(layer.name, layer.index) for layer in layers])
    for layer in layers:
        if layer.index not in sizes:
            raise BadInput(
                f"--expert-bytes gives no size for layer {layer.name} (decoder layer {layer.index}): give SIZE without "
                f"a layer too, for all others"
            )
    return resized(layers, given)
