"""Sizes that a user states, for all layers or for some."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput
from craftc.models.given_sizes import GivenSizes, parse_given_sizes, resized, sized
from craftc.models.moe_layer import MoELayer

LAYERS = tuple(MoELayer(f"model.layers.{index}.mlp.experts", index, 8, 100) for index in (3, 4, 5))


def sizes(*options: str) -> list[int]:
    return [layer.expert_bytes for layer in resized(LAYERS, parse_given_sizes(options))]


def test_a_layer_is_given_by_name_or_by_decoder_index() -> None:
    assert sizes() == [100, 100, 100]
    assert sizes("2KiB") == [2048, 2048, 2048]
    assert sizes("4=1KiB") == [100, 1024, 100]
    assert sizes("1MiB", "model.layers.5.mlp.experts=7B", "3=8B") == [8, 2**20, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("2KiB", "3KiB"), "gives all layers twice"),
        (("3=2KiB", "3=3KiB"), "gives layer 3 twice"),
        (("3=2KiB", "model.layers.3.mlp.experts=3KiB"), "twice, by its name and by its index 3"),
        (("0=2KiB",), r"--expert-bytes 0=\.\.\.: no such MoE layer; .* index \(3\.\.5\)"),
        (("=2KiB",), "no layer before the ="),
        (("3=84M",), "ambiguous"),
        (("3=0B",), "at least 1 byte"),
    ],
)
def test_mistakes(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sizes(*options)


def test_sizes_that_nobody_else_knows_must_be_given_for_all() -> None:
    assert sized(LAYERS, GivenSizes(by_layer={"3": 1, "4": 2, "5": 3}))[2].expert_bytes == 3
    with pytest.raises(BadInput, match=r"no size for layer model\.layers\.4\.mlp\.experts \(decoder layer 4\)"):
        sized(LAYERS, GivenSizes(by_layer={"3": 1}))
    with pytest.raises(BadInput, match="the size of an expert is not known"):
        sized(LAYERS, GivenSizes())
