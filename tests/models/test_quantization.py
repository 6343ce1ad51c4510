"""Where a quantisation is stated, and what happens if two places disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import BadInput
from craftc.models.quantization import stated_quantization

FP8 = {"quant_method": "fp8"}
NVFP4 = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}


def write_beside(folder: Path, quantization: Any) -> None:
    document = {"producer": {"name": "modelopt"}, "quantization": quantization}
    (folder / "hf_quant_config.json").write_text(json.dumps(document))


def test_every_place_is_read(tmp_path: Path) -> None:
    assert stated_quantization(({}, {}), tmp_path) is None
    assert stated_quantization(({"quantization_config": None},), tmp_path) is None
    assert stated_quantization(({}, {"quantization_config": FP8}), None) == (FP8, "quantization_config")
    assert stated_quantization(({"compression_config": FP8},), None) == (FP8, "compression_config")
    assert stated_quantization(({"quantization_config": FP8}, {"quantization_config": FP8}), None) is not None
    write_beside(tmp_path, NVFP4)
    assert stated_quantization(({},), tmp_path) == ({"quant_method": "modelopt", **NVFP4}, "hf_quant_config.json")


def test_modelopts_own_file_put_into_a_config_is_read() -> None:
    stated = stated_quantization(({"quantization_config": {"quant_method": "modelopt", "quantization": NVFP4}},), None)
    assert stated is not None
    assert stated[0]["quant_algo"] == "NVFP4"


def test_a_config_that_agrees_with_the_file_beside_it_decides(tmp_path: Path) -> None:
    write_beside(tmp_path, NVFP4)
    inside = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0*"]}
    assert stated_quantization(({"quantization_config": inside},), tmp_path) == (inside, "quantization_config")


@pytest.mark.parametrize(
    ("levels", "beside", "message"),
    [
        (({"quantization_config": FP8}, {"quantization_config": {"quant_method": "awq"}}), None, "is given twice, and"),
        (({"quantization_config": FP8},), NVFP4, "quant_method 'fp8', hf_quant_config.json has quant_algo 'NVFP4'"),
        (({"quantization_config": {"quant_algo": "FP8"}},), NVFP4, "keep the one that is right"),
        (({"quantization_config": 8},), None, "quantization_config must be an object, got int"),
        (({},), "NVFP4", "hf_quant_config.json: quantization must be an object, got 'NVFP4'"),
    ],
)
def test_what_is_not_sure_is_refused(levels: Any, beside: Any, message: str, tmp_path: Path) -> None:
    if beside is not None:
        write_beside(tmp_path, beside)
    with pytest.raises(BadInput, match=message):
        stated_quantization(levels, tmp_path)
