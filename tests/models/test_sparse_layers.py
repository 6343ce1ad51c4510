"""Every way in which configs say which layers have experts."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import BadInput
from craftc.models.sparse_layers import sparse_layers

LAYERS = 6
ALL = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("config", "indices"),
    [
        ({"first_k_dense_replace": 2}, [2, 3, 4, 5]),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"moe_layer_freq": [0, 1, 0, 1, 1, 1]}, [1, 3, 4, 5]),
        ({"moe_layer_freq": [0, 1, 0, 1, 1, 1, 1]}, [1, 3, 4, 5]),
        ({"num_dense_layers": 3}, [3, 4, 5]),
        ({"moe_layer_num_skipped": 1}, [1, 2, 3, 4, 5]),
        ({"dense_mlp_idx": 4}, [4, 5]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1, 5]),
        ({"decoder_sparse_step": 1, "mlp_only_layers": None}, ALL),
        ({"mlp_only_layers": [0, 5]}, [1, 2, 3, 4]),
        ({"interleave_moe_layer_step": 2}, [1, 3, 5]),
        ({"interleave_moe_layer_step": 2, "moe_layers": [0, 2]}, [0, 2]),
        ({"interleave_moe_layer_step": 1, "moe_layers": None}, ALL),
        ({"moe_layers_enum": "3,4,5,6"}, [3, 4, 5]),
        ({"moe_layer_indices": [5, 1]}, [1, 5]),
        ({"expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 8}, [1, 3, 5]),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 1}, [1, 2, 3, 4]),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": -1, "moe_layer_interval": 2}, [1, 3, 5]),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense", "hash_moe", "moe"]}, [1, 2, 4, 5]),
        ({"mlp_layer_types": ["sparse"] * 6, "first_k_dense_replace": 3}, ALL),
        ({"hybrid_override_pattern": "ME*E-E"}, [1, 3, 5]),
        ({"layers_block_type": ["mamba", "moe", "attention", "moe", "mlp", "moe"]}, [1, 3, 5]),
        ({"layers_block_type": ["mamba", "attention"] * 3, "expert_layer_period": 3}, [0, 3]),
    ],
)
def test_rules(config: dict[str, Any], indices: list[int]) -> None:
    assert sparse_layers(config, LAYERS, None) == indices


def test_without_a_rule_the_architecture_decides_or_nobody() -> None:
    assert sparse_layers({}, LAYERS, 2) == [2, 3, 4, 5]
    assert sparse_layers({}, LAYERS, 9) == []
    assert sparse_layers({}, LAYERS, None) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"first_k_dense_replace": None}, "first_k_dense_replace must be a number of layers, got None"),
        ({"first_k_dense_replace": float("nan")}, "first_k_dense_replace must be a number of layers, got nan"),
        ({"moe_layer_freq": 0}, "moe_layer_freq must be"),
        ({"moe_layer_freq": [0, 2, 1]}, "moe_layer_freq must hold 0 or 1 for each of 6 layers"),
        ({"decoder_sparse_step": float("inf")}, "decoder_sparse_step must be .* got inf"),
        ({"mlp_only_layers": "0"}, "mlp_only_layers must be a list"),
        ({"mlp_layer_types": ["sparse"]}, "mlp_layer_types must name a kind for each of 6 layers"),
        ({"mlp_layer_types": ["odd"] * 6}, "mlp_layer_types: kind 'odd' is not known"),
        ({"mlp_layer_types": [[]] * 6}, r"mlp_layer_types: kind \[\] is not known"),
        ({"moe_layers_enum": "3-5"}, "moe_layers_enum must be a list of decoder layers, got '3-5'"),
        ({"moe_layers": [-1]}, "moe_layers must be a list of decoder layers"),
        ({"hybrid_override_pattern": "MEX"}, "hybrid_override_pattern must be made of"),
        ({"expert_layer_period": "2"}, "expert_layer_period must be"),
        ({"moe_layer_start_index": 1.5}, "moe_layer_start_index must be a decoder layer"),
        ({"moe_layer_interval": -2}, "moe_layer_interval must be"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sparse_layers(config, LAYERS, None)
