"""What published models take in serving."""

from __future__ import annotations

import pytest

from craftc.models.model_config import parse_model_config
from craftc.models.serving_shape import serving_shape
from tests.models.serving_configs import DEEPSEEK_V3


def test_deepseek_v3() -> None:
    shape = serving_shape(parse_model_config(DEEPSEEK_V3))
    experts = 58 * 256 * shape.expert_parameters[0]
    assert shape.dense_parameters + 2 * 129280 * 7168 + experts == pytest.approx(671.03e9, rel=1e-3)
    assert (shape.kv_bytes_per_token, shape.kv_heads) == (61 * 576 * 2, 1)
    assert (shape.dense_dtype, shape.expert_dtype) == ("float8", "float8")
    assert shape.score_flops_per_pair == 61 * 2 * 128 * (192 + 128)
    assert shape.decode_score_flops_per_pair == 61 * 2 * 128 * (576 + 512)
