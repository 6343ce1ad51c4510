"""One size for the experts of each layer: given, stored or stated, in this order; the cases are those of issue 10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import BadInput, CraftcError
from craftc.models.given_sizes import GivenSizes, parse_given_sizes
from craftc.models.model_config import parse_model_config, read_model_config
from tests.models.test_checkpoint_headers import Entries, write_index

QWEN: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "hidden_size": 2048, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "torch_dtype": "bfloat16",
}  # fmt: skip
VALUES = 3 * 768 * 2048
MIB = 2**20


def mib_by_layer(quantization: Any, **changes: Any) -> dict[float, list[int]]:
    """Layers by the size of their experts, in MiB with two decimals."""
    config = QWEN | changes | ({"quantization_config": quantization} if quantization else {})
    found: dict[float, list[int]] = {}
    for layer in parse_model_config(config).layers:
        found.setdefault(round(layer.expert_bytes / MIB, 2), []).append(layer.index)
    return found


def test_case_01_a_quantisation_stated_only_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN | {"moe_intermediate_size": 1536, "hidden_size": 4096}))
    beside = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "model.layers.0.mlp.gate"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": beside}))
    for path in (tmp_path, tmp_path / "config.json"):
        assert {round(layer.expert_bytes / MIB, 1) for layer in read_model_config(path).layers} == {10.1}


def test_case_21_every_layer_has_the_settings_that_name_it() -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    all_layers = list(range(48))
    eight = {"dynamic": {r"+:.*\.mlp\.experts\..*": {"bits": 8, "group_size": 64}}}
    assert mib_by_layer(gptq | eight) == {4.73: all_layers}
    assert mib_by_layer(gptq | {"dynamic": {r"-:.*\.mlp\.experts\..*": {}}}) == {9.0: all_layers}
    assert mib_by_layer(gptq | {"dynamic": {r"-:model\.layers\.(0|47)\..*": {}}}) == {
        9.0: [0, 47],
        2.36: all_layers[1:47],
    }
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    int4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
    groups = {
        "a": {"targets": [r"re:.*layers\.[0-3]\.mlp\.experts.*"], "weights": weights},
        "b": {"targets": [r"re:.*mlp\.experts.*"], "weights": int4},
    }
    sizes = mib_by_layer({"quant_method": "compressed-tensors", "config_groups": groups})
    assert sizes == {4.51: [0, 1, 2, 3], 2.32: all_layers[4:]}


def test_case_21_a_list_with_the_paths_of_a_multimodal_model() -> None:
    ignored = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["model.language_model.layers.*.mlp.experts*"],
    }
    document = {"model_type": "qwen3_vl_moe", "dtype": "bfloat16", "quantization_config": ignored}
    text = {**QWEN, "model_type": "qwen3_vl_moe_text", "torch_dtype": None}
    assert {layer.expert_bytes for layer in parse_model_config(document | {"text_config": text}).layers} == {9 * MIB}


def test_case_25_the_first_layer_in_the_models_own_type() -> None:
    left_out = ["model.layers.0.", "self_attn", "shared_expert", "mlp.gate."]
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "modules_to_not_convert": left_out}
    sizes = mib_by_layer(awq, num_hidden_layers=60, moe_intermediate_size=1024, hidden_size=4096)
    assert sizes == {24.0: [0], 6.23: list(range(1, 60))}


def test_matrices_of_one_expert_may_differ() -> None:
    sizes = {2 * VALUES // 3 * 2 + VALUES // 3 + 4}
    config = QWEN | {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:.*(gate|up)_proj"]}}
    assert {layer.expert_bytes for layer in parse_model_config(config).layers} == sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch_dtype": None}, r"dtype \(or torch_dtype\) is missing"),
        ({"expert_dtype": "fp6"}, "expert_dtype 'fp6' is not known"),
        ({"model_type": "new", "hidden_act": "relu2"}, "hidden_act 'relu2': whether experts have a gate matrix"),
        (
            {
                "model_type": "new",
                "moe_intermediate_size": None,
                "expert_intermediate_dim": 64,
                "intermediate_size": 99,
            },
            "expert_intermediate_dim may be the intermediate size of experts",
        ),
        ({"torch_dtype": "auto"}, r"dtype \(or torch_dtype\) must be one of"),
        (
            {"torch_dtype": None, "quantization_config": {"quant_method": "fp8", "ignore": ["experts"]}},
            "dtype .* missing",
        ),
        ({"quantization_config": {"quant_method": "hqq"}}, "quant_method 'hqq'"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "INT3"}}, "quant_algo 'INT3'"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": ["model.layers.5.mlp.experts.9.up_proj"]}},
            r"expert 0 of decoder layer 5 has .* expert 9 has .*--expert-bytes 5=SIZE",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": [r"re:.*layers\.7\..*experts\.[12]\..*"]}},
            "expert 0 of decoder layer 7 has .* expert 1 has",
        ),
    ],
)
def test_what_is_not_sure_is_refused_unless_a_size_is_given(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CraftcError, match=message):
        parse_model_config(QWEN | changes)
    given = parse_model_config(QWEN | changes, given=GivenSizes(7)).layers
    assert {layer.expert_bytes for layer in given} == {7}


def test_given_sizes_decide_over_the_config() -> None:
    given = parse_given_sizes(["3=1MiB", "model.layers.4.mlp.experts=2MiB"])
    sizes = [layer.expert_bytes for layer in parse_model_config(QWEN, given=given).layers]
    assert sizes[2:6] == [9 * MIB, MIB, 2 * MIB, 9 * MIB]


def checkpoint(folder: Path, layer_bytes: dict[int, int], **changes: Any) -> Path:
    """A folder whose headers say that experts of these layers have so many bytes; a file for each layer."""
    tiny = {"num_hidden_layers": len(layer_bytes), "num_experts": 2, "num_experts_per_tok": 1}
    (folder / "config.json").write_text(
        json.dumps(QWEN | tiny | {"moe_intermediate_size": 8, "hidden_size": 8} | changes)
    )
    files: dict[str, Entries] = {
        f"{index}.safetensors": {
            f"model.layers.{index}.mlp.experts.{expert}.up_proj.weight": ("U8", [size], size) for expert in range(2)
        }
        for index, size in layer_bytes.items()
    }
    write_index(folder, files)
    return folder


def stored_sizes(folder: Path, *given: str) -> list[int]:
    return [layer.expert_bytes for layer in read_model_config(folder, parse_given_sizes(given)).layers]


def test_files_of_the_checkpoint_decide_over_the_config(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, {0: 500, 1: 96}, quantization_config={"quant_method": "never heard of"})
    assert stored_sizes(folder) == [500, 96]
    assert stored_sizes(folder / "config.json", "1=3B") == [500, 3]


def test_layers_whose_files_are_not_here_are_as_the_config_states_if_the_others_bear_it_out(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, {0: 384, 1: 384, 2: 384})
    (folder / "1.safetensors").unlink()
    assert stored_sizes(folder) == [384, 3 * 8 * 8 * 2, 384]


def test_files_that_contradict_the_config_do_not_speak_for_those_that_are_not_here(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, {0: 200, 1: 200, 2: 200})
    (folder / "1.safetensors").unlink()
    with pytest.raises(BadInput, match=r"layer 0 has 200 bytes .*files, 384 by its config; .*layer 1 are not here"):
        stored_sizes(folder)
    assert stored_sizes(folder, "1=200B") == [200, 200, 200]
