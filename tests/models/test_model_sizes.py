"""Sizes of the experts of a model that was built from a config: those of the checkpoint, not of its parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import CraftcError
from craftc.models.given_sizes import GivenSizes, parse_given_sizes
from craftc.models.model_sizes import guessed_type, mtp_beside, true_sizes
from craftc.models.moe_layer import MoELayer

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 128, "num_experts_per_tok": 8,
    "hidden_size": 2048, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "torch_dtype": "bfloat16",
}  # fmt: skip
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
BUILT = tuple(MoELayer(f"layers.{index}.mlp.experts", index, 128, 9 * 2**20) for index in range(2))


def sizes(folder: Path, given: GivenSizes = GivenSizes(), **changes: Any) -> list[int]:
    path = folder / "config.json"
    path.write_text(json.dumps({key: value for key, value in (CONFIG | changes).items() if value is not None}))
    return [layer.expert_bytes for layer in true_sizes(str(path), BUILT, given)]


def test_case_05_a_block_fp8_config_as_model(tmp_path: Path) -> None:
    assert sizes(tmp_path, quantization_config=FP8) == [3 * 768 * 2048 + 3 * 6 * 16 * 4] * 2
    assert sizes(tmp_path) == [9 * 2**20] * 2


def test_a_model_without_config_has_the_sizes_of_its_parameters() -> None:
    assert true_sizes("model.py:factory", BUILT, GivenSizes()) == BUILT
    given = true_sizes("model.py", BUILT, parse_given_sizes(["layers.1.mlp.experts=5B"]))
    assert [layer.expert_bytes for layer in given] == [9 * 2**20, 5]


def test_given_sizes_decide(tmp_path: Path) -> None:
    assert sizes(tmp_path, parse_given_sizes(["1=5B"]), quantization_config=FP8)[1] == 5
    assert sizes(tmp_path, GivenSizes(7), quantization_config={"quant_method": "hqq"}) == [7, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": None},  # a structure that only building it shows
        {"num_experts": 64},  # other experts than the config seems to have
        {"decoder_sparse_step": 2},
    ],
)
def test_a_config_that_is_not_understood_is_no_matter_unless_it_is_quantised(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert sizes(tmp_path, **changes) == [9 * 2**20] * 2
    with pytest.raises(CraftcError, match=r"config\.json: .*--expert-bytes"):
        sizes(tmp_path, quantization_config=FP8, **changes)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(CraftcError, match=r"config\.json: .*--expert-bytes"):
        sizes(tmp_path, **changes)


def test_an_unstated_type_is_refused_and_can_be_told_of_before(tmp_path: Path) -> None:
    with pytest.raises(CraftcError, match=r"dtype .* is missing"):
        sizes(tmp_path, torch_dtype=None)
    assert "sizes are those of float32" in guessed_type(str(tmp_path / "config.json"))[0]
    sizes(tmp_path, text_config={"dtype": "float16"})
    assert guessed_type(str(tmp_path / "config.json")) == ()
    assert guessed_type("model.py") == ()


def test_multi_token_prediction_that_is_not_built_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"num_nextn_predict_layers": 1}))
    assert "multi-token prediction (layer 2)" in mtp_beside(str(path))[0]
    for config in (CONFIG, {"model_type": "bert"}):
        path.write_text(json.dumps(config))
        assert mtp_beside(str(path)) == ()
    assert mtp_beside("model.py") == ()
