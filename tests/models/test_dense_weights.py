"""Bytes outside routed experts: as files store them, and as configs state them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from craftc.errors import BadInput
from craftc.models.given_sizes import GivenSizes
from craftc.models.model_config import parse_model_config, read_model_config, read_model_config_with_mtp
from craftc.models.serving_shape import serving_shape
from tests.model_families import FAMILIES
from tests.models.test_model_config import KIMI_INT4
from tests.models.test_serving_shape import CONFIGS, shape_of


def checkpoint(folder: Path, family: str, **changes: Any) -> tuple[int, int]:
    """A checkpoint of a tiny model; bytes of all its tensors, and of its routed experts."""
    model: Any = FAMILIES[family].build()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    document = json.loads(model.config.to_json_string(use_diff=False)) | {"dtype": "float32"} | changes
    (folder / "config.json").write_text(json.dumps(document))
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    routed = sum(size for name, size in sizes.items() if ".experts." in name)
    return sum(sizes.values()), routed


@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_oss", "qwen2_moe", "granite_moe"])
def test_files_tell_the_bytes(family: str, tmp_path: Path) -> None:
    total, routed = checkpoint(tmp_path, family)
    if family == "granite_moe":  # its experts are not in a module of that name
        routed = 3 * 8 * 3 * 32 * 24 * 4
    shape = serving_shape(read_model_config(tmp_path))
    assert shape.dense_bytes == total - routed


def test_files_agree_with_what_the_config_states(tmp_path: Path) -> None:
    checkpoint(tmp_path, "deepseek_v3")
    stored = serving_shape(read_model_config(tmp_path)).dense_bytes
    (tmp_path / "model.safetensors").unlink()
    assert serving_shape(read_model_config(tmp_path)).dense_bytes == pytest.approx(
        stored, rel=0.03
    )  # tiny: norms count


def test_files_of_a_part_of_the_model_tell_nothing(tmp_path: Path) -> None:
    checkpoint(tmp_path, "deepseek_v3")
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    partial = serving_shape(read_model_config(tmp_path)).dense_bytes
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert partial == serving_shape(read_model_config(tmp_path)).dense_bytes


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "deepseek_v3")
    model = read_model_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        serving_shape(model)


def test_layers_of_multi_token_prediction_count_if_they_are_used(tmp_path: Path) -> None:
    checkpoint(tmp_path, "deepseek_v3", num_nextn_predict_layers=1)
    without = serving_shape(read_model_config(tmp_path)).dense_bytes
    (tmp_path / "model.safetensors").unlink()
    with_mtp = serving_shape(read_model_config_with_mtp(tmp_path)).dense_bytes
    assert with_mtp > without


def test_lists_of_what_is_not_quantised_hold_for_dense_matrices() -> None:
    """Kimi-K2-Thinking: experts in four bits, attention and shared experts in bfloat16."""
    thinking = shape_of("Kimi-K2-Instruct", quantization_config=KIMI_INT4["quantization_config"])
    plain = shape_of("Kimi-K2-Instruct", quantization_config=None)
    assert thinking.dense_bytes == plain.dense_bytes
    assert (thinking.dense_dtype, thinking.expert_dtype) == ("bfloat16", "bfloat16")


def test_a_part_that_is_not_quantised_is_noted() -> None:
    settings = CONFIGS["DeepSeek-V3"]["quantization_config"] | {"modules_to_not_convert": ["self_attn"]}
    shape = shape_of("DeepSeek-V3", quantization_config=settings)
    assert shape.dense_dtype == "bfloat16"
    assert "bfloat16 75%, float8 25%" in shape.notes[0]
    assert shape.expert_dtype == "float8"


def test_globs_and_paths_name_dense_matrices() -> None:
    config = CONFIGS["DeepSeek-V3"]
    for entry in ("model.layers.*.self_attn*", r"re:.*self_attn.*", "self_attn"):
        settings = config["quantization_config"] | {"modules_to_not_convert": [entry]}
        assert shape_of("DeepSeek-V3", quantization_config=settings).dense_bytes > 29e9, entry
    one = config["quantization_config"] | {"modules_to_not_convert": ["model.layers.1.self_attn"]}
    attention = shape_of("DeepSeek-V3", quantization_config=one).dense_bytes - shape_of("DeepSeek-V3").dense_bytes
    assert attention == pytest.approx(187e6, rel=0.01)


def test_names_of_blocks_of_an_architecture_count() -> None:
    """Nemotron-H calls every block `mixer`."""
    settings = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": []}
    name = "Nemotron-3-Nano-30B-A3B"
    all_of_it = shape_of(name, quantization_config=settings)
    but_one = shape_of(name, quantization_config=settings | {"exclude_modules": ["backbone.layers.0.mixer"]})
    assert but_one.dense_bytes - all_of_it.dense_bytes == pytest.approx(2688 * 10304 + 2688 * 4096, rel=1e-3)


def test_what_is_not_known_of_dense_matrices_is_noted() -> None:
    settings = {"quant_method": "novel"}
    config = CONFIGS["Mixtral-8x7B-v0.1"]
    model = parse_model_config(config | {"quantization_config": settings}, given=GivenSizes(every=88 * 10**6))
    shape = serving_shape(model)
    assert shape.dense_bytes == shape_of("Mixtral-8x7B-v0.1").dense_bytes
    assert any("novel" in note and "own type" in note for note in shape.notes)
    assert any("4.0 bits" in note for note in shape.notes)
