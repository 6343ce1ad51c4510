"""ModelOpt's algorithms, worked out by hand for matrices of 32,768 values."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import CraftcError
from tests.models.expert_matrices import HIDDEN, VALUES, WIDTH, matrix_sizes

NVFP4 = VALUES // 2 + VALUES // 16 + 8


def sizes(**settings: Any) -> list[int | None]:
    return matrix_sizes({"quant_method": "modelopt", **settings}, layer=2)


@pytest.mark.parametrize(
    ("algorithm", "up"),
    [
        ("NVFP4", NVFP4),
        ("FP8", VALUES + 8),
        ("FP8_PB_WO", VALUES + 2 * 4),
        ("FP8_PER_CHANNEL_PER_TOKEN", VALUES + WIDTH * 4),
        ("MXFP8", VALUES + VALUES // 32),
        ("W4A8_MXFP4_FP8", VALUES // 2 + VALUES // 32),
        ("W4A16_AWQ", VALUES // 2 + (VALUES // 128 + HIDDEN) * 2),
        (None, None),
    ],
)
def test_algorithms(algorithm: str | None, up: int | None) -> None:
    assert sizes(quant_algo=algorithm)[1] == up


def test_lists_leave_modules_out() -> None:
    assert sizes(quant_algo="NVFP4", exclude_modules=["model.layers.2.*", "lm_head"]) == [None, None, None]
    assert sizes(quant_algo="NVFP4", ignore=["model.layers.2.mlp.gate", "model.layers.21*"]) == [NVFP4] * 3
    assert sizes(quant_algo="NVFP4", exclude_modules=["*.down_proj"]) == [NVFP4, NVFP4, None]


def test_mixed_precision_names_every_module_that_is_quantised() -> None:
    layers = {
        "model.layers.2.mlp.experts.0.gate_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.2.mlp.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.2.self_attn.q_proj": {"quant_algo": "FP8"},
    }
    assert sizes(quant_algo="MIXED_PRECISION", quantized_layers=layers) == [NVFP4, NVFP4, None]


def test_a_config_with_groups_alone_is_read_like_that_of_compressed_tensors() -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}
    assert sizes(config_groups={"group_0": group}) == [VALUES + 2] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_algo": "W4A8_NVFP4_FP8"}, "group_size must be positive or -1, got None"),
        ({"quant_algo": "W2A2"}, "quant_algo 'W2A2' is not known"),
        ({}, "quant_algo None is not known"),
        ({"quant_algo": "MIXED_PRECISION"}, "quantized_layers is None"),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"model.layers.2.mlp": {"quant_algo": "X"}}},
            r"model\.layers\.2\.mlp: quant_algo 'X' is not known",
        ),
    ],
)
def test_what_is_not_sure_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CraftcError, match=message):
        sizes(**settings)


def test_activation_scales_of_awq_are_one_per_input() -> None:
    up, down = sizes(quant_algo="W4A16_AWQ", group_size=64)[1:]
    assert (up, down) == (VALUES // 2 + (VALUES // 64 + HIDDEN) * 2, VALUES // 2 + (VALUES // 64 + WIDTH) * 2)
