"""Configurations of real models, written from what their repositories hold: layers, experts, groups and bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import BadInput, CraftcError, Unsupported
from craftc.models.model_config import parse_model_config, read_model_config

DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_nextn_predict_layers": 1,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "torch_dtype": "bfloat16",
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [128, 128]},
}  # fmt: skip
KIMI = DEEPSEEK | {
    "model_type": "kimi_k2", "n_routed_experts": 384, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
KIMI_INT4 = KIMI | {
    "quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": None, "output_activations": None,
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True,
                        "dynamic": False, "actorder": None}}},
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    },
}  # fmt: skip
QWEN = {
    "model_type": "qwen3_moe", "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 94, "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_local_experts": 128, "num_experts_per_tok": 4, "experts_per_token": 4,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]},
}  # fmt: skip
GLM = {
    "model_type": "glm4_moe", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 92, "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1, "torch_dtype": "bfloat16",
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_local_experts": 8, "num_experts_per_tok": 2, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_VALUES = 3 * 7168 * 2048
KNOWN = [
    ("DeepSeek-R1", DEEPSEEK, (3, 60), 256, 8, (8, 4), DEEPSEEK_VALUES + 3 * 56 * 16 * 4),
    ("Kimi-K2", KIMI, (1, 60), 384, 8, (None, None), DEEPSEEK_VALUES + 3 * 56 * 16 * 4),
    ("Kimi-K2-Thinking", KIMI_INT4, (1, 60), 384, 8, (None, None), DEEPSEEK_VALUES // 2 + DEEPSEEK_VALUES // 32 * 2),
    ("Qwen3-235B", QWEN, (0, 93), 128, 8, (None, None), 3 * 4096 * 1536 * 2),
    ("GPT-OSS-120B", GPT_OSS, (0, 35), 128, 4, (None, None), 3 * 2880 * (1440 + 90) + 3 * 2880 * 2),
    ("GLM-4.5", GLM, (3, 91), 160, 8, (None, None), 3 * 5120 * 1536 * 2),
    ("Mixtral-8x7B", MIXTRAL, (0, 31), 8, 2, (None, None), 3 * 4096 * 14336 * 2),
]


@pytest.mark.parametrize(
    ("config", "span", "experts", "top_k", "groups", "size"), [row[1:] for row in KNOWN], ids=[row[0] for row in KNOWN]
)
def test_real_models(config: dict, span: tuple, experts: int, top_k: int, groups: tuple, size: int) -> None:
    model = parse_model_config(config)
    assert model.hidden_layers == config["num_hidden_layers"]
    assert [layer.index for layer in model.layers] == list(range(span[0], span[1] + 1))
    assert {(layer.experts, layer.top_k, layer.expert_bytes) for layer in model.layers} == {(experts, top_k, size)}
    assert (model.expert_groups, model.groups_per_token) == groups


@pytest.mark.parametrize(
    "name",
    [
        "deepseek_v3",
        "qwen3_moe",
        "qwen2_moe",
        "gpt_oss",
        "glm4_moe",
        "glm_moe_dsa",
        "mixtral",
        "olmoe",
        "granitemoe",
        "phimoe",
        "dots1",
    ],
)
def test_layers_are_those_of_transformers(name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name)
    config.num_hidden_layers = 5
    if name in ("glm_moe_dsa", "dots1"):
        config.num_experts_per_tok, config.mlp_layer_types = 2, ["dense"] * 2 + ["sparse"] * 3
    if name == "dots1":
        config.n_routed_experts, config.n_shared_experts, config.first_k_dense_replace = 16, 1, 2
    config.layer_types = None if not getattr(config, "layer_types", None) else config.layer_types[:5]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found = {
        path: sum(value.numel() * value.element_size() for value in module.parameters()) // module.num_experts
        for path, module in model.named_modules()
        if path.endswith(".experts") and hasattr(module, "num_experts")
    }
    parsed = parse_model_config(config.to_dict() | {"dtype": "bfloat16"})
    assert {layer.name: layer.expert_bytes for layer in parsed.layers} == found


@pytest.mark.parametrize(
    ("quantization", "size"),
    [
        ({"quant_method": "fp8", "activation_scheme": "static"}, DEEPSEEK_VALUES + 3 * 8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, None),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, DEEPSEEK_VALUES // 2 + DEEPSEEK_VALUES // 128 * 5 // 2),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, DEEPSEEK_VALUES // 2 + DEEPSEEK_VALUES // 16 + 24),
        ({"quant_method": "fp8", "modules_to_not_convert": ["experts"]}, DEEPSEEK_VALUES * 2),
        ({"quant_method": "fp8", "ignored_layers": ["re:.*experts.*"]}, DEEPSEEK_VALUES * 2),
        ({"quant_method": "fp8", "modules_to_not_convert": ["shared_experts", "gate"]}, DEEPSEEK_VALUES + 12),
    ],
)
def test_other_quantisations(quantization: dict, size: int | None) -> None:
    found = parse_model_config(DEEPSEEK | {"quantization_config": quantization}).layers[0].expert_bytes
    if size is None:  # AWQ's parts and 4 bytes for every input: 7168 twice, 2048 once
        size = DEEPSEEK_VALUES // 2 + DEEPSEEK_VALUES // 128 * 5 // 2 + 4 * (7168 + 7168 + 2048)
    assert found == size


def test_channel_wise_fp8_and_asymmetric_int8_of_compressed_tensors() -> None:
    def size(**weights: object) -> int:
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        quantization = {"quant_method": "compressed-tensors", "config_groups": groups}
        return parse_model_config(MIXTRAL | {"quantization_config": quantization}).layers[0].expert_bytes

    rows = 14336 * 2 + 4096
    assert size(num_bits=8, type="float", strategy="channel", symmetric=True) == 3 * 4096 * 14336 + rows * 2
    assert size(num_bits=8, type="int", strategy="channel", symmetric=False) == 3 * 4096 * 14336 + rows * 3
    with pytest.raises(Unsupported, match="strategy 'token' is not known"):
        size(num_bits=8, type="int", strategy="token")


def test_the_text_part_of_a_multimodal_model_is_read() -> None:
    document = {"model_type": "kimi_k25", "vision_config": {}, "text_config": KIMI_INT4}
    assert parse_model_config(document) == parse_model_config(KIMI_INT4)


def test_layer_lists() -> None:
    assert [
        layer.index for layer in parse_model_config(QWEN | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}).layers
    ][:2] == [3, 5]
    assert [layer.index for layer in parse_model_config(DEEPSEEK | {"moe_layer_freq": 2}).layers][:2] == [4, 6]
    assert [layer.index for layer in parse_model_config(DEEPSEEK | {"moe_layer_freq": [0, 1, 0, 1]}).layers] == [1, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert", "n_routed_experts": None}, "no field says how many routed experts a layer has"),
        ({"num_hidden_layers": None}, r"num_hidden_layers must be a whole number in 1\.\.10000, got None"),
        ({"n_routed_experts": -1}, "n_routed_experts must be"),
        ({"num_experts_per_tok": 300}, r"num_experts_per_tok must be a whole number in 1\.\.256, got 300"),
        ({"hidden_size": True}, "hidden_size must be"),
        ({"first_k_dense_replace": None}, "first_k_dense_replace must be"),
        ({"first_k_dense_replace": 61}, "none of its 61 decoder layers is an MoE layer"),
        ({"torch_dtype": "int3"}, "dtype"),
        ({"quantization_config": {"quant_method": "hqq"}}, "method 'hqq' is not known"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "group_size must be"),
        ({"quantization_config": {"quant_method": "awq", "bits": "four"}}, "bits must be"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 1]}}, "weight_block_size must be"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "no config_groups entry covers the experts"),
        ({"quantization_config": {"quant_method": "fp8", "ignore": ["re:("]}}, "is not a pattern"),
        ({"quantization_config": 8}, "quantization_config must be an object"),
    ],
)
def test_wrong_configurations_get_one_line(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DEEPSEEK | change))
    with pytest.raises(CraftcError, match=message) as error:
        read_model_config(path)
    assert str(error.value).startswith(str(path))


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    assert read_model_config(tmp_path) == read_model_config(tmp_path / "config.json") == parse_model_config(MIXTRAL)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match=r"expected a model's config\.json, got a list"):
        read_model_config(tmp_path)


def test_reading_a_config_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK))
    script = (
        "import sys, pathlib; from craftc.models.model_config import read_model_config; "
        "from craftc.loads.read_loads import detect_loads; "
        f"read_model_config(pathlib.Path({str(tmp_path)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
