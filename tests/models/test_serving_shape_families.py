"""Serving shapes of tiny models of many families, against the models themselves: weights, and bytes in their caches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from craftc.models.model_config import parse_model_config
from craftc.models.serving_shape import ServingShape, serving_shape
from craftc.models.transformers_config import text_model_class
from tests.families.tiny import tiny_configuration
from tests.model_families import FAMILIES, example_inputs
from tests.models.serving_shape_truth import dense_values

OTHERS = (
    "afmoe", "dbrx", "deepseek_v32", "deepseek_v4", "dots3_note_text", "gemma4_text", "glm5_next_text",
    "granitemoehybrid", "hy_v4", "jamba", "laguna", "lfm2_moe", "llama4_text", "longcat_flash", "minimax",
    "muse_spark_text", "nemotron_h", "qwen3_next", "step3p5",
)  # fmt: skip
"""Families with sparse, compressed or linear attention, states, output gates, or two blocks in a layer."""


def shape_of(config: Any) -> ServingShape:
    document = json.loads(config.to_json_string(use_diff=False)) | {"dtype": "float32"}
    return serving_shape(parse_model_config(document))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_a_family(name: str) -> None:
    model = FAMILIES[name].build()
    assert shape_of(model.config).dense_parameters == dense_values(model)


@pytest.mark.parametrize("model_type", OTHERS)
def test_weights_of_other_attention(model_type: str) -> None:
    from transformers import CONFIG_MAPPING

    config = tiny_configuration(CONFIG_MAPPING[model_type])
    with torch.device("meta"):
        model = text_model_class(config, model_type)(config)
    assert shape_of(config).dense_parameters == dense_values(model)


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"deepseek_v3"}))
def test_cache_of_a_family(name: str) -> None:
    """transformers keeps latent attention's keys written out, and a window without the token that is computed."""
    model = FAMILIES[name].build()
    shape, tokens = shape_of(model.config), 9
    inputs = example_inputs(batch=1, tokens=tokens)
    cache = model(**inputs, use_cache=True).past_key_values
    kept = sum(tensor.numel() for tensor in _kept(cache)) * 2  # two bytes a value, as servers keep them
    stated = shape.kv_bytes_per_token * tokens
    stated += sum(window.bytes_per_token * min(tokens, window.tokens - 1) for window in shape.windows)
    assert kept == stated


def _kept(cache: Any) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        yield from (layer.keys, layer.values)
