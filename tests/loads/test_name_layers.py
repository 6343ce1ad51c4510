"""Recordings that say layers by number get the names of the model's."""

from __future__ import annotations

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import name_layers
from craftc.models.model_config import parse_model_config
from tests.models.test_model_config import DEEPSEEK


@pytest.mark.parametrize("indices", [tuple(range(3, 61)), tuple(range(58))])
def test_recordings_by_index_or_by_ordinal_get_the_models_names(indices: tuple[int, ...]) -> None:
    loads = LoadProfile.from_counts(np.ones((1, 58, 256), dtype=np.int64), layer_indices=indices)
    named = name_layers(loads, parse_model_config(DEEPSEEK))
    assert (named.layer_indices, named.layer_names[0]) == (tuple(range(3, 61)), "model.layers.3.mlp.experts")
    assert named.top_k[0] == 8


def test_a_multi_token_prediction_layer_in_the_recording_is_dropped() -> None:
    counts_SLE = np.arange(1, 60)[None, :, None].repeat(256, axis=2)
    loads = LoadProfile.from_counts(counts_SLE, layer_indices=tuple(range(3, 62)))
    named = name_layers(loads, parse_model_config(DEEPSEEK))
    assert (named.layers, named.layer_indices[-1], named.counts_SLE[0, -1, 0]) == (58, 60, 58)


def test_recordings_of_another_model_are_refused() -> None:
    model = parse_model_config(DEEPSEEK)
    with pytest.raises(BadInput, match="decoder layer 60 is in only one of the two"):
        name_layers(LoadProfile.from_counts(np.ones((1, 57, 256)), layer_indices=tuple(range(3, 60))), model)
    with pytest.raises(BadInput, match="loads are of 8 experts, the model"):
        name_layers(LoadProfile.from_counts(np.ones((1, 58, 8))), model)
