"""Which class of transformers a config.json is read with, however it is wrapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from craftc.errors import BadInput, CraftcError, Unsupported
from craftc.models.model_file import load_model_source
from craftc.models.transformers_config import read_text_config, text_model_class

QWEN: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2, "hidden_size": 32,
    "moe_intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50,
}  # fmt: skip
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2", "num_hidden_layers": 2, "hidden_size": 32,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "n_routed_experts": 4, "n_group": 1,
    "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    "num_attention_heads": 2, "vocab_size": 50,
}  # fmt: skip


def written(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (QWEN | {"torch_dtype": "torch.bfloat16"}, "Qwen3MoeForCausalLM"),
        (QWEN | {"dtype": "bfloat16", "time_step_limit": [0.0, float("inf")]}, "Qwen3MoeForCausalLM"),
        ({"model_type": "internvl_chat", "torch_dtype": "bfloat16", "llm_config": QWEN}, "Qwen3MoeForCausalLM"),
        (
            {"model_type": "other", "torch_dtype": "bfloat16", "a": {"b": QWEN | {"torch_dtype": None}}},
            "Qwen3MoeForCausalLM",
        ),
        (DEEPSEEK | {"torch_dtype": "bfloat16"}, "DeepseekV3ForCausalLM"),
        ({"model_type": "no_such", "dtype": "bfloat16", "text_config": DEEPSEEK}, "DeepseekV3ForCausalLM"),
    ],
)
def test_every_wrapping_is_built_in_its_dtype(tmp_path: Path, config: dict[str, Any], kind: str) -> None:
    source = load_model_source(str(written(tmp_path, config)))
    assert type(source.model).__name__ == kind
    experts = [parameter for name, parameter in source.model.named_parameters() if "experts." in name]
    assert {parameter.dtype for parameter in experts} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["GraniteMoeHybrid", "NemotronH"])
def test_infinity_as_transformers_writes_it_is_read(tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(time_step_limit=[0.0, float("inf")])
    config.save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert read_text_config(tmp_path / "config.json").time_step_limit[1] == float("inf")


@pytest.mark.parametrize(
    ("kind", "model"),
    [("Qwen3OmniMoe", "Qwen3OmniMoeThinkerTextModel"), ("Ernie4_5_VLMoe", "Ernie4_5_VLMoeTextModel")],
)
def test_a_text_model_without_an_auto_class_is_found_by_its_configuration(
    tmp_path: Path, kind: str, model: str
) -> None:
    getattr(transformers, f"{kind}Config")().to_json_file(tmp_path / "config.json")
    found = text_model_class(read_text_config(tmp_path / "config.json"), "here")
    assert found.__name__ in (model, model.replace("VLMoe", "VL_Moe"))


@pytest.mark.parametrize("config", [{}, {"model_type": "no_such_type"}, {"model_type": "kimi_x", "num_experts": 8}])
def test_an_unknown_model_is_one_line_of_advice(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(CraftcError) as caught:
        load_model_source(str(written(tmp_path, config)))
    assert type(caught.value) in (BadInput, Unsupported)
    assert "known" in str(caught.value)


def test_a_model_that_takes_no_tokens_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="write a file with build_model"):
        text_model_class(transformers.Qwen3OmniMoeConfig(), "here")
