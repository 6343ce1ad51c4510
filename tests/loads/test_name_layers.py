"""Recordings that say layers by number get the names of the model's."""

from __future__ import annotations

import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.loads.name_layers import left_out, name_layers, recorded_layers
from craftc.models.model_config import parse_model_config, parse_model_config_with_mtp
from tests.models.test_model_config import DEEPSEEK


@pytest.mark.parametrize("indices", [tuple(range(3, 61)), tuple(range(58))])
def test_recordings_by_index_or_by_ordinal_get_the_models_names(indices: tuple[int, ...]) -> None:
    loads = LoadProfile.from_counts(np.ones((1, 58, 256), dtype=np.int64), layer_indices=indices)
    named = name_layers(loads, parse_model_config(DEEPSEEK))
    assert (named.layer_indices, named.layer_names[0]) == (tuple(range(3, 61)), "model.layers.3.mlp.experts")
    assert named.top_k[0] == 8


def recording(indices: range) -> LoadProfile:
    """Loads of DeepSeek's experts in these layers, each with as many tokens an expert as its ordinal says."""
    counts_SLE = np.arange(1, len(indices) + 1)[None, :, None].repeat(256, axis=2)
    return LoadProfile.from_counts(counts_SLE, layer_indices=tuple(indices))


def test_a_multi_token_prediction_layer_in_the_recording_is_dropped_with_a_word() -> None:
    loads, config = recording(range(3, 62)), parse_model_config(DEEPSEEK)
    named = name_layers(loads, config)
    assert (named.layers, named.layer_indices[-1], named.counts_SLE[0, -1, 0]) == (58, 60, 58)
    (line,) = left_out(loads, config)
    assert "layer 61 after the last decoder layer (multi-token prediction) left out" in line
    assert "--mtp" in line


@pytest.mark.parametrize("indices", [range(3, 62), range(59)])
def test_it_is_kept_on_request_by_index_and_by_ordinal(indices: range) -> None:
    loads, config = recording(indices), parse_model_config_with_mtp(DEEPSEEK)
    named = name_layers(loads, config)
    assert (named.layers, named.layer_indices[-1], named.counts_SLE[0, -1, 0]) == (59, 61, 59)
    assert named.layer_names[-1] == "model.layers.61.mlp.experts"
    assert left_out(loads, config) == ()


def test_a_model_with_multi_token_prediction_is_said_where_the_recording_has_none_of_it() -> None:
    assert "--mtp" in left_out(recording(range(3, 61)), parse_model_config(DEEPSEEK))[0]
    without = parse_model_config({key: DEEPSEEK[key] for key in DEEPSEEK if key != "num_nextn_predict_layers"})
    assert left_out(recording(range(3, 61)), without) == ()


def test_a_recording_by_ordinal_that_has_it_is_told_how_to_keep_it() -> None:
    with pytest.raises(BadInput, match=r"58 MoE layers, .* as many: give --mtp$"):
        name_layers(recording(range(59)), parse_model_config(DEEPSEEK))


def test_recordings_of_another_model_are_refused() -> None:
    model = parse_model_config(DEEPSEEK)
    with pytest.raises(BadInput, match="decoder layer 60 is in only one of the two"):
        name_layers(LoadProfile.from_counts(np.ones((1, 57, 256)), layer_indices=tuple(range(3, 60))), model)
    with pytest.raises(BadInput, match="loads are of 8 experts, the model"):
        name_layers(LoadProfile.from_counts(np.ones((1, 58, 8))), model)


V4 = {
    "model_type": "deepseek_v4", "num_hidden_layers": 43, "n_routed_experts": 256, "num_experts_per_tok": 6,
    "moe_intermediate_size": 2048, "hidden_size": 4096, "num_hash_layers": 3, "dtype": "bfloat16",
}  # fmt: skip


def test_first_layers_without_a_router_need_no_loads() -> None:
    loads, config = recording(range(3, 43)), parse_model_config(V4)
    named = name_layers(loads, config)
    assert (named.layer_indices, named.layer_names[0]) == (tuple(range(3, 43)), "model.layers.3.mlp.experts")
    assert recorded_layers(loads, config) == config.layers[3:]
    (line,) = left_out(loads, config)
    assert "the first 3 MoE layers are routed by token" in line


def test_other_layers_must_be_in_the_recording() -> None:
    assert name_layers(recording(range(43)), parse_model_config(V4)).layers == 43
    for indices in (range(4, 43), range(2, 43), range(3, 42)):
        with pytest.raises(BadInput, match="is in only one of the two"):
            name_layers(recording(indices), parse_model_config(V4))


def test_loads_of_layers_that_differ_are_not_of_a_model_of_equal_ones() -> None:
    counts_SLE = np.ones((1, 58, 256), dtype=np.int64)
    counts_SLE[:, 1, 255] = 0
    loads = LoadProfile.from_counts(counts_SLE, layer_experts=(256, 255, *(256,) * 56))
    with pytest.raises(BadInput, match=r"loads are of 255 experts in layer 1, .* has 256 in model.layers.4.mlp"):
        name_layers(loads, parse_model_config(DEEPSEEK))
