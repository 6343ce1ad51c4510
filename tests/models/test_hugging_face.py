"""Hugging Face folders and bare configs, all made here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from craftc.errors import BadInput, Unsupported
from craftc.models.model_file import fingerprint_model, load_model_source
from tests.model_families import FAMILIES


@pytest.fixture
def checkpoint(tmp_path):
    """A saved tiny Mixtral in bfloat16, and the model."""
    model: Any = FAMILIES["mixtral"].build(seed=3, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "tiny-mixtral")
    return tmp_path / "tiny-mixtral", model


def edit_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_folder_gives_the_saved_model_and_runnable_inputs(checkpoint):
    folder, model = checkpoint
    source = load_model_source(str(folder))
    assert source.name == "tiny-mixtral"
    assert not source.on_meta
    assert source.fingerprint == fingerprint_model(model)
    assert source.model(**source.inputs.example).logits.dtype == torch.bfloat16


def test_a_bare_config_is_built_on_the_meta_device_in_its_own_dtype(checkpoint):
    folder, model = checkpoint
    source = load_model_source(str(folder / "config.json"))
    assert source.on_meta
    assert source.name == "tiny-mixtral"
    shapes = {name: (parameter.shape, parameter.dtype) for name, parameter in model.named_parameters()}
    assert {name: (parameter.shape, parameter.dtype) for name, parameter in source.model.named_parameters()} == shapes
    assert all(parameter.is_meta for parameter in source.model.parameters())
    assert {name: (tensor.shape, tensor.is_meta) for name, tensor in source.inputs.example.items()} == {
        "input_ids": ((2, 16), True),
        "attention_mask": ((2, 16), True),
    }


@pytest.mark.parametrize("kind", ["Llama4", "Qwen3VLMoe", "Qwen3_5Moe"])
def test_the_text_part_of_a_multimodal_config_is_built_in_the_outer_dtype(tmp_path, kind):
    import transformers

    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = getattr(transformers, f"{kind}Config")(text_config=small, dtype=torch.bfloat16)
    config.to_json_file(tmp_path / "outer.json")
    source = load_model_source(str(tmp_path / "outer.json"))
    assert source.name == "outer"
    assert {parameter.dtype for parameter in source.model.parameters()} == {torch.bfloat16}
    assert not any("vision" in name for name, _ in source.model.named_parameters())


def test_a_checkpoint_that_lacks_weights_is_refused_instead_of_filled_with_noise(checkpoint):
    folder, _ = checkpoint
    edit_config(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(BadInput, match=r"weights are missing .* the first is model\.layers\.3\."):
        load_model_source(str(folder))


def test_weights_of_another_shape_are_refused(checkpoint):
    folder, _ = checkpoint
    edit_config(folder / "config.json", hidden_size=64)
    with pytest.raises(BadInput, match=r"or have another shape there; the first is lm_head\.weight"):
        load_model_source(str(folder))


def test_a_lost_expert_is_one_line_without_transformers_report(checkpoint, capfd):
    folder, _ = checkpoint
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in sorted(weights) if "experts" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    with pytest.raises(BadInput, match=r"transformers cannot load it: .* conversion of the weights\.$"):
        load_model_source(str(folder))
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_safetensors_is_refused(checkpoint):
    folder, _ = checkpoint
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"no \.safetensors file in this folder; to plan without weights"):
        load_model_source(str(folder))


def test_a_broken_safetensors_file_is_refused(checkpoint):
    folder, _ = checkpoint
    (folder / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(BadInput, match="transformers cannot load it"):
        load_model_source(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a model's config.json, got a list"),
        ('{"model_type": "mixtral", "hidden_size": "wide"}', "transformers cannot load it"),
    ],
)
def test_a_broken_config_is_one_line(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        load_model_source(str(path))
    assert "\n" not in str(caught.value)


def test_a_config_with_code_of_its_own_is_refused_and_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="no field says how many routed experts"):
        load_model_source(str(tmp_path / "config.json"))
    assert not (tmp_path / "ran").exists()
