"""The backend sees the layers that tracing sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import craftc
from craftc.backend.planning import model_layers
from tests.model_families import FAMILIES, example_inputs


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_layers_are_named_numbered_and_sized_as_inspect_does(family: str):
    model: Any = FAMILIES[family].build()
    found = craftc.inspect(model, example_inputs())
    traced = tuple(replace(layer, router=None, top_k=None) for layer in found.layers)
    assert model_layers(model) == traced
