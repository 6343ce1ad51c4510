"""Groups of settings: which one a matrix has, and its bytes, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import CraftcError
from tests.models.expert_matrices import HIDDEN, VALUES, WIDTH, matrix_sizes

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
INT4_BYTES = VALUES // 2 + VALUES // 32 * 2
UP_INT8, DOWN_INT8 = VALUES + WIDTH * 2, VALUES + HIDDEN * 2


def sizes(*groups: tuple[list[str], Any], layer: int = 0, **more: Any) -> list[int | None]:
    described = {
        f"group_{number}": {"targets": targets, "weights": weights} for number, (targets, weights) in enumerate(groups)
    }
    return matrix_sizes({"quant_method": "compressed-tensors", "config_groups": described, **more}, layer)


@pytest.mark.parametrize(
    ("weights", "up"),
    [
        (INT4, INT4_BYTES),
        (INT4 | {"symmetric": False}, INT4_BYTES + VALUES // 32 // 2),
        (INT4 | {"actorder": "group"}, INT4_BYTES + 4 * HIDDEN),
        (INT4 | {"actorder": "static"}, INT4_BYTES),
        (INT4 | {"scale_dtype": "torch.float32"}, INT4_BYTES + VALUES // 32 * 2),
        (INT8, UP_INT8),
        ({"num_bits": 8, "type": "float", "strategy": "tensor"}, VALUES + 2),
        ({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}, VALUES + 2 * 2),
        (NVFP4, VALUES // 2 + VALUES // 16 + 4),
        ({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}, VALUES // 2 + VALUES // 32),
        ({"num_bits": 4, "type": "int", "group_size": 64}, VALUES // 2 + VALUES // 64 * 2),
        (None, None),
    ],
)
def test_strategies(weights: dict[str, Any] | None, up: int | None) -> None:
    assert sizes((["Linear"], weights))[1] == up


def test_groups_by_matrix() -> None:
    gate_up, down = (["re:.*(gate|up)_proj"], INT4), (["re:.*down_proj"], INT8)
    assert sizes(gate_up, down) == [INT4_BYTES, INT4_BYTES, DOWN_INT8]
    assert sizes(down, gate_up) == [INT4_BYTES, INT4_BYTES, DOWN_INT8]


def test_groups_by_layer_and_the_first_target_that_names_a_matrix_decides() -> None:
    first, rest = ([r"re:.*layers\.[0-3]\.mlp\.experts.*"], INT8), (["re:.*mlp.experts.*"], INT4)
    assert sizes(first, rest, layer=3) == [UP_INT8, UP_INT8, DOWN_INT8]
    assert sizes(first, rest, layer=4) == [INT4_BYTES] * 3
    assert sizes(rest, first, layer=3) == [INT4_BYTES] * 3


def test_a_name_goes_before_a_class() -> None:
    assert sizes((["Linear"], INT4), (["re:.*down_proj"], INT8)) == [INT4_BYTES, INT4_BYTES, DOWN_INT8]


def test_what_no_target_names_or_a_list_leaves_out_is_not_quantised() -> None:
    assert sizes((["re:.*self_attn.*"], INT8)) == [None, None, None]
    assert sizes((["Linear"], INT8), ignore=["lm_head", "re:.*up_proj"]) == [UP_INT8, None, DOWN_INT8]


def test_formats_that_store_a_byte_for_each_value() -> None:
    bytes_each = VALUES + VALUES // 32 * 2
    assert sizes((["Linear"], INT4), format="pack-quantized") == [INT4_BYTES] * 3
    assert sizes((["Linear"], INT4), format="int-quantized") == [bytes_each] * 3
    group = {"targets": ["Linear"], "weights": INT4, "format": "naive-quantized"}
    mixed = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": {"g": group}}
    assert matrix_sizes(mixed) == [bytes_each] * 3


def test_static_activations_of_four_bit_floats_have_a_scale_too() -> None:
    group = {"targets": ["Linear"], "weights": NVFP4, "input_activations": {"num_bits": 4, "dynamic": "local"}}
    settings = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    assert matrix_sizes(settings)[0] == VALUES // 2 + VALUES // 16 + 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"config_groups": {"g": {"targets": ["Linear"], "weights": INT8}}, "ignore": ["Qwen3MoeExperts"]},
            "ignore: whether Qwen3MoeExperts is the class",
        ),
        (
            {
                "config_groups": {
                    "g": {"targets": ["Linear"], "weights": INT8},
                    "h": {"targets": ["MyExperts"], "weights": INT4},
                }
            },
            "Linear and MyExperts differ",
        ),
        ({"config_groups": {}, "format": "marlin-24"}, "format 'marlin-24' is not known"),
        ({"config_groups": {}}, "no config_groups entry covers the experts"),
        ({"config_groups": {"g": {"weights": INT4}}}, "config_groups: g: targets must be a list, got None"),
        ({"config_groups": {"g": {"targets": ["Linear"], "weights": 4}}}, "weights must be an object, got int"),
        ({"config_groups": {"g": {"targets": ["FusedMoE"], "weights": INT4}}}, "whether FusedMoE are experts is not"),
        ({"config_groups": {"g": {"targets": ["Linear"], "weights": INT4 | {"num_bits": 0}}}}, "num_bits must be in"),
        (
            {"config_groups": {"g": {"targets": ["Linear"], "weights": INT4 | {"group_size": "a"}}}},
            "group_size must be",
        ),
        (
            {"config_groups": {"g": {"targets": ["Linear"], "weights": INT8 | {"strategy": "token"}}}},
            "strategy 'token'",
        ),
        (
            {
                "config_groups": {"g": {"targets": ["Linear"], "weights": INT8}},
                "sparsity_config": {"format": "bitmask"},
            },
            "sparsity_config: format 'bitmask' is not known",
        ),
    ],
)
def test_what_is_not_sure_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CraftcError, match=message):
        matrix_sizes({"quant_method": "compressed-tensors", **settings})
