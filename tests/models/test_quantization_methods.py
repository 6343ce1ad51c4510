"""Bytes of 256 x 128 matrices under every method, worked out by hand: 32,768 values each."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import CraftcError
from tests.models.expert_matrices import HIDDEN, VALUES, WIDTH, matrix_sizes

GPTQ4 = VALUES // 2 + VALUES // 64 * 2 + VALUES // 64 // 2
"""Four bits, and for each group of 64 an fp16 scale and a packed zero point; group numbers are added per input."""


@pytest.mark.parametrize(
    ("settings", "up", "down"),
    [
        ({"quant_method": "fp8"}, VALUES + 4, VALUES + 4),
        ({"quant_method": "fp8", "activation_scheme": "static"}, VALUES + 8, VALUES + 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, VALUES + 2 * 4, VALUES + 2 * 4),
        ({"quant_method": "fp8", "weight_block_size": [100, 128]}, VALUES + 2 * 2 * 4, VALUES + 3 * 4),
        ({"quant_method": "fp8", "expert_dtype": "fp4", "scale_fmt": "ue8m0"}, VALUES // 2 + VALUES // 32,
         VALUES // 2 + VALUES // 32),
        ({"quant_method": "fbgemm_fp8"}, VALUES + WIDTH * 4, VALUES + HIDDEN * 4),
        ({"quant_method": "mxfp4"}, VALUES // 2 + VALUES // 32, VALUES // 2 + VALUES // 32),
        ({"quant_method": "mxfp8"}, VALUES + VALUES // 32, VALUES + VALUES // 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, GPTQ4, GPTQ4),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": -1}, VALUES // 2 + WIDTH * 2 + WIDTH // 2,
         VALUES // 2 + HIDDEN * 2 + HIDDEN // 2),
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, GPTQ4 + HIDDEN * 4, GPTQ4 + WIDTH * 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, VALUES + WIDTH * 4, VALUES + HIDDEN * 4),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, VALUES // 2 + VALUES // 64 * 4,
         VALUES // 2 + VALUES // 64 * 4),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
         VALUES // 2 + VALUES // 64 + 3 * 4, VALUES // 2 + VALUES // 64 + 3 * 4),
        ({"quant_method": "quark", "global_quant_config": {"weight": {
            "dtype": "fp4", "qscheme": "per_group", "group_size": 32}}}, VALUES // 2 + VALUES // 32,
         VALUES // 2 + VALUES // 32),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}},
          "layer_quant_config": {"*down_proj": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"}}}},
         VALUES + 4, VALUES + HIDDEN * 4),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}},
          "layer_quant_config": {"*experts*": {"weight": None}}}, None, None),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}},
          "exclude": ["re:.*up_proj"]}, None, VALUES + 4),
    ],
)  # fmt: skip
def test_methods(settings: dict[str, Any], up: int, down: int) -> None:
    assert matrix_sizes(settings)[1:] == [up, down]


def gptq(dynamic: dict[str, Any], **more: Any) -> list[int | None]:
    return matrix_sizes({"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": dynamic, **more}, layer=3)


def test_the_first_dynamic_pattern_that_fits_decides() -> None:
    up4, down4 = GPTQ4 + HIDDEN * 4, GPTQ4 + WIDTH * 4
    up8 = VALUES + VALUES // 64 * 2 + VALUES // 64 + HIDDEN * 4
    assert gptq({}) == [up4, up4, down4]
    assert gptq({"-:.*experts.*": {}}) == [None, None, None]
    assert gptq({r"-:.*\.down_proj": {}}) == [up4, up4, None]
    assert gptq({r"+:.*\.(gate|up)_proj": {"bits": 8}}) == [up8, up8, down4]
    assert gptq({r".*\.up_proj": {"bits": 8}, "-:.*experts.*": {}}) == [None, up8, None]
    assert gptq({"-:.*experts.*": {}, r"+:.*\.up_proj": {"bits": 8}}) == [None, None, None]
    assert gptq({r"-:model\.layers\.[0-2]\..*": {}}) == [up4, up4, down4]
    assert gptq({r"-:model\.layers\.[0-3]\..*": {}}) == [None, None, None]


def test_gptq_of_some_modules_in_a_block() -> None:
    assert gptq({}, modules_in_block_to_quantize=[["self_attn.q_proj"], ["mlp.experts.0.down_proj"]])[:2] == [None] * 2
    assert gptq({}, modules_in_block_to_quantize=["self_attn.q_proj"]) == [None, None, None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "hqq"}, "quant_method 'hqq' is not known"),
        ({"bits": 4}, "quant_method None is not known"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size must be positive or -1, got 0"),
        ({"quant_method": "gptq", "bits": float("nan"), "group_size": 64}, r"bits must be in 1\.\.16, got nan"),
        ({"quant_method": "awq", "bits": 17, "group_size": 64}, r"bits must be in 1\.\.16, got 17"),
        ({"quant_method": "gptq", "dynamic": ["x"]}, "dynamic must be an object of patterns"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 64, "dynamic": {"+:(": {}}},
            "dynamic: 're:.' is not a patt",
        ),
        ({"quant_method": "fp8", "expert_dtype": "int3"}, "expert_dtype 'int3' is not known"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int3"}}}, "weight of dtype int3"),
        ({"quant_method": "quark"}, "global_quant_config is None, and says nothing of weights"),
        ({"quant_method": "awq", "expert_dtype": "fp4"}, "expert_dtype 'fp4' is not known with quant_method 'awq'"),
        ({"quant_method": "quark", "layer_type_quant_config": {"Linear": {}}}, "layer_type_quant_config is not known"),
    ],
)
def test_what_is_not_sure_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CraftcError, match=message):
        matrix_sizes(settings)
