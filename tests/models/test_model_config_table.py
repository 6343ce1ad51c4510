"""Published models: their layers, experts and bytes, worked out by hand from the fields that their repositories state.

`known_configs.json` has one model a line; `expert_bytes` is the arithmetic: matrices, hidden size, width, bytes.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import CraftcError
from craftc.models.model_config import parse_model_config

KNOWN = json.loads(Path(__file__).with_name("known_configs.json").read_text())


def numbers_in(text: str) -> list[int]:
    """`1-47:2,50` as the numbers that it lists."""
    found: list[int] = []
    for part in text.split(","):
        first, _, rest = part.partition("-")
        last, _, step = rest.partition(":")
        found.extend(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def result_of(arithmetic: str) -> int:
    """The value of a sum of products of whole numbers."""
    assert re.fullmatch(r"[0-9+*/() ]+", arithmetic)
    return int(eval(arithmetic))


def test_there_are_enough_of_them() -> None:
    assert len({row["name"] for row in KNOWN}) == len(KNOWN) >= 60
    assert len({row["config"]["model_type"] for row in KNOWN}) >= 35


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row["name"])
def test_a_published_model_is_read_right(row: dict[str, Any]) -> None:
    model = parse_model_config(row["config"])
    assert [layer.index for layer in model.layers] == numbers_in(row["layers"])
    found = {(layer.experts, layer.top_k, layer.expert_bytes) for layer in model.layers}
    assert found == {(row["experts"], row["top_k"], result_of(row["expert_bytes"]))}


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row["name"])
def test_a_field_that_matters_must_be_a_number(row: dict[str, Any]) -> None:
    def spoiled(config: dict[str, Any]) -> dict[str, Any]:
        return {
            key: spoiled(value) if isinstance(value, dict) else math.nan if key in ("hidden_size", "d_model") else value
            for key, value in config.items()
        }

    with pytest.raises(CraftcError, match=r"(hidden_size|d_model) must be .*, got nan"):
        parse_model_config(spoiled(row["config"]))


# Experts of Hunyuan have the size of dense layers unless a field of their own says another.
OF_THEIR_OWN = [
    row for row in KNOWN if "moe_intermediate_size" in row["config"] and row["config"]["model_type"] != "hunyuan_v1_moe"
]


@pytest.mark.parametrize("row", OF_THEIR_OWN, ids=lambda row: row["name"])
def test_the_width_of_dense_layers_is_not_taken_for_that_of_experts(row: dict[str, Any]) -> None:
    own = {key: value for key, value in row["config"].items() if key != "moe_intermediate_size"}
    with pytest.raises(CraftcError, match="moe_intermediate_size"):
        parse_model_config(own)
