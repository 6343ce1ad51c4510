"""Types in which matrices are multiplied, and bytes of cached values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import Unsupported
from craftc.models.kv_cache_type import kv_value_bytes
from tests.models.test_serving_shape import shape_of

EXPERTS_ONLY = {"exclude_modules": ["*self_attn*", "lm_head"]}


def group(bits: int, kind: str, activations: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Settings of llm-compressor."""
    weights = {"num_bits": bits, "type": kind, "strategy": "channel", "symmetric": True, **more}
    format_ = "pack-quantized" if activations is None else "float-quantized"
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}}
    return {"quant_method": "compressed-tensors", "format": format_, "config_groups": groups, "ignore": ["lm_head"]}


QUARK = {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}}
KNOWN: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "float8"),
    ({"quant_method": "fbgemm_fp8"}, "float8"),
    ({"quant_method": "mxfp8"}, "float8"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "bfloat16"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "bfloat16"),
    ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "bfloat16"),
    ({"quant_method": "mxfp4"}, "bfloat16"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bfloat16"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    (group(4, "int", None), "bfloat16"),
    (group(8, "float", None), "bfloat16"),
    (group(8, "float", {"num_bits": 8, "type": "float"}), "float8"),
    (group(8, "int", {"num_bits": 8, "type": "int"}), "int8"),
    (group(4, "float", {"num_bits": 4, "type": "float"}, group_size=16, strategy="group"), "float4"),
    (group(4, "int", {"num_bits": 8, "type": "float"}), "float8"),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "float8"),
    ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "float8"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "float4"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "group_size": 16}, "bfloat16"),
    ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "float8"),
    ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "bfloat16"),
    ({"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"}, "bfloat16"),
    ({"quant_method": "quark", "global_quant_config": QUARK}, "bfloat16"),
    ({"quant_method": "quark", "global_quant_config": QUARK | {"input_tensors": {"dtype": "fp4"}}}, "float4"),
    ({"quant_method": "quark", "global_quant_config": QUARK | {"input_tensors": {"dtype": "fp8_e4m3"}}}, "float8"),
]


@pytest.mark.parametrize(
    ("settings", "kind"), KNOWN, ids=[f"{case[0]['quant_method']}-{n}" for n, case in enumerate(KNOWN)]
)
def test_experts_and_dense_matrices(settings: dict[str, Any], kind: str) -> None:
    shape = shape_of("Qwen3-30B-A3B", quantization_config=settings)
    assert shape.expert_dtype == kind
    assert shape.dense_dtype == kind
    assert not shape.notes


def test_each_module_may_have_an_algorithm_of_its_own() -> None:
    layers = {f"model.layers.{index}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for index in range(48)}
    layers |= {f"model.layers.{index}.self_attn": {"quant_algo": "FP8"} for index in range(48)}
    settings = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    shape = shape_of("Qwen3-30B-A3B", quantization_config=settings)
    assert (shape.expert_dtype, shape.dense_dtype) == ("float4", "float8")


def test_what_is_left_out_is_multiplied_in_the_type_of_the_model() -> None:
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, **EXPERTS_ONLY}
    shape = shape_of("Qwen3-30B-A3B", quantization_config=settings)
    assert (shape.expert_dtype, shape.dense_dtype) == ("float4", "bfloat16")


def test_experts_of_deepseek_v4_have_four_bits_and_are_multiplied_in_eight() -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    shape = shape_of("DeepSeek-V3", quantization_config=settings, expert_dtype="fp4")
    assert (shape.expert_dtype, shape.dense_dtype) == ("float8", "float8")


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 2),
        ({"kv_cache_scheme": None}, 2),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1),
        ({"kv_cache_quant_algo": "FP8"}, 1),
        ({"kv_cache_quant_algo": None}, 2),
        ({"kv_cache_quant_algo": "none"}, 2),
        ({"kv_cache_quant_algo": "NVFP4"}, 0.5625),
    ],
)
def test_values_in_the_cache(settings: dict[str, Any], size: float, tmp_path: Path) -> None:
    inside = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", **settings}}
    assert kv_value_bytes([inside], None) == size
    beside = {"quantization": {"quant_algo": "FP8", **settings}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert kv_value_bytes([{}], tmp_path) == size
    assert kv_value_bytes([{"quantization_config": {"quant_method": "modelopt"}}], tmp_path) == size


def test_no_quantisation_is_two_bytes(tmp_path: Path) -> None:
    assert kv_value_bytes([{}], None) == kv_value_bytes([{}], tmp_path) == 2


@pytest.mark.parametrize(
    "settings", [{"kv_cache_scheme": {"num_bits": 3}}, {"kv_cache_quant_algo": "FP3"}, {"kv_cache_scheme": 8}]
)
def test_a_cache_that_is_not_known_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="kv_cache"):
        kv_value_bytes([{"quantization_config": settings}], None)


def test_the_cache_of_a_checkpoint_that_states_its_type() -> None:
    settings = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    shape = shape_of("Qwen3-30B-A3B", quantization_config=settings)
    assert shape.kv_bytes_per_token == shape_of("Qwen3-30B-A3B").kv_bytes_per_token // 2
