"""What published models take in serving.

`published_configs.json` has the fields of a model a line, as its repository states them; `parameters` is what the
repository counts (without multi-token prediction and vision), null where it is rounded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from craftc.errors import BadInput, CraftcError, Unsupported
from craftc.models.attention_shape import WindowCache
from craftc.models.given_sizes import GivenSizes
from craftc.models.model_config import ModelConfig, parse_model_config, parse_model_config_with_mtp
from craftc.models.serving_shape import ServingShape, serving_shape

ROWS = json.loads(Path(__file__).with_name("published_configs.json").read_text())
CONFIGS: dict[str, dict[str, Any]] = {row["name"]: row["config"] for row in ROWS}


def shape_of(name: str, **changes: Any) -> ServingShape:
    return serving_shape(parse_model_config(CONFIGS[name] | changes))


@pytest.mark.parametrize("row", [row for row in ROWS if row["parameters"]], ids=lambda row: row["name"])
def test_all_weights_together_are_those_of_the_repository(row: dict[str, Any]) -> None:
    model = parse_model_config(row["config"])
    shape, fields = serving_shape(model), row["config"].get("text_config", row["config"])
    experts = sum(layer.experts * one for layer, one in zip(model.layers, shape.expert_parameters, strict=True))
    total = shape.dense_parameters + 2 * fields["vocab_size"] * shape.hidden + experts
    assert total == pytest.approx(row["parameters"], rel=1e-3)


# KV bytes for each token: layers x (keys and values, or a compressed one with its rotary part) x 2 bytes.
@pytest.mark.parametrize(
    ("name", "kv_bytes", "kv_heads"),
    [
        ("DeepSeek-V3", 61 * (512 + 64) * 2, 1),
        ("Kimi-K2-Instruct", 61 * (512 + 64) * 2, 1),
        ("Qwen3-235B-A22B", 94 * 2 * 4 * 128 * 2, 4),
        ("Mixtral-8x7B-v0.1", 32 * 2 * 8 * 128 * 2, 8),
        ("DBRX", 40 * 2 * 8 * 128 * 2, 8),
        ("GLM-4.5", 92 * 2 * 8 * 128 * 2, 8),
        ("Step3", 61 * 2 * 1 * 256 * 2, 1),
        ("Jamba-v0.1", 4 * 2 * 8 * 128 * 2, 8),
        ("Qwen3-Next-80B-A3B-Instruct", 12 * 2 * 2 * 256 * 2, 2),
        ("Kimi-Linear-48B-A3B-Instruct", 7 * (512 + 64) * 2, 1),
        ("MiniMax-Text-01", 10 * 2 * 8 * 128 * 2, 8),
        ("Nemotron-3-Nano-30B-A3B", 6 * 2 * 2 * 128 * 2, 2),
    ],
)
def test_cache_of_a_token(name: str, kv_bytes: int, kv_heads: int) -> None:
    shape = shape_of(name)
    assert (shape.kv_bytes_per_token, shape.kv_heads, shape.windows) == (kv_bytes, kv_heads, ())


def test_scores_of_latent_attention_are_on_whole_keys_in_prefill_and_on_compressed_ones_in_decode() -> None:
    shape = shape_of("DeepSeek-V3")
    assert shape.score_flops_per_pair == 61 * 2 * 128 * ((128 + 64) + 128)
    assert shape.decode_score_flops_per_pair == 61 * 2 * 128 * ((512 + 64) + 512)


def test_scores_of_grouped_attention_are_the_same_in_both() -> None:
    shape = shape_of("Qwen3-235B-A22B")
    assert shape.score_flops_per_pair == shape.decode_score_flops_per_pair == 94 * 2 * 64 * (128 + 128)


def test_windows() -> None:
    gpt_oss, scout, mimo = shape_of("gpt-oss-120b"), shape_of("Llama-4-Scout-17B-16E"), shape_of("MiMo-V2-Flash")
    assert gpt_oss.windows == (WindowCache(128, 18 * 2 * 8 * 64 * 2, 18 * 2 * 64 * 128),)
    assert gpt_oss.kv_bytes_per_token == 18 * 2 * 8 * 64 * 2
    assert scout.windows == (WindowCache(8192, 36 * 2 * 8 * 128 * 2, 36 * 2 * 40 * 256),)
    assert scout.kv_bytes_per_token == 12 * 2 * 8 * 128 * 2
    assert mimo.windows == (WindowCache(128, 39 * 8 * (192 + 128) * 2, 39 * 2 * 64 * 320),)
    assert (mimo.kv_bytes_per_token, mimo.kv_heads) == (9 * 4 * (192 + 128) * 2, 4)


def test_states() -> None:
    qwen, jamba = shape_of("Qwen3-Next-80B-A3B-Instruct"), shape_of("Jamba-v0.1")
    assert qwen.state_bytes == 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)
    assert jamba.state_bytes == 28 * (8192 * 16 * 4 + 8192 * 3 * 2)
    small = shape_of("Qwen3-Next-80B-A3B-Instruct", mamba_ssm_dtype="bfloat16")
    assert qwen.state_bytes - small.state_bytes == 36 * 32 * 128 * 128 * 2


def test_an_indexer_chooses_what_is_attended_to_and_keeps_keys_of_its_own() -> None:
    shape = shape_of("DeepSeek-V3", model_type="deepseek_v32", index_topk=2048, index_head_dim=128, index_n_heads=64)
    assert shape.kv_bytes_per_token == 61 * (576 * 2 + 128 + 4)
    assert shape.windows == (WindowCache(2048, 0, 61 * 2 * 128 * (576 + 512)),)
    assert shape.score_flops_per_pair == shape.decode_score_flops_per_pair == 61 * 2 * 64 * 128
    more = 61 * (64 * 128 * 1536 + 128 * 7168 + 64 * 7168)
    assert shape.dense_parameters == shape_of("DeepSeek-V3").dense_parameters + more


def test_tokens_may_share_a_key_of_the_indexer() -> None:
    indexer = {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
    shape = shape_of("DeepSeek-V3", model_type="deepseek_v32", index_kpool=16, **indexer)
    assert shape.kv_bytes_per_token == 61 * (576 * 2 + 9)  # 132 bytes for 16 tokens
    assert shape.score_flops_per_pair == 61 * 2 * 64 * 128 // 16


def test_types() -> None:
    kinds = {name: (shape_of(name).dense_dtype, shape_of(name).expert_dtype) for name in CONFIGS}
    assert kinds["DeepSeek-V3"] == ("float8", "float8")
    assert kinds["gpt-oss-120b"] == kinds["Mixtral-8x7B-v0.1"] == ("bfloat16", "bfloat16")
    assert shape_of("Mixtral-8x7B-v0.1", torch_dtype="float16").expert_dtype == "float16"


def test_bytes_of_fp8_are_a_byte_for_each_weight_but_for_tables_and_routers() -> None:
    shape = shape_of("DeepSeek-V3")
    plain = 2 * 129280 * 7168 * 2 + 58 * 256 * 7168
    assert shape.dense_bytes == pytest.approx(shape.dense_parameters + plain, rel=1e-3)
    in_bfloat16 = shape_of("DeepSeek-V3", quantization_config=None)
    assert in_bfloat16.dense_bytes == 2 * (in_bfloat16.dense_parameters + 2 * 129280 * 7168)


def test_tied_tables_are_counted_once_and_doubt_is_noted() -> None:
    once, twice = (shape_of("Mixtral-8x7B-v0.1", tie_word_embeddings=tied) for tied in (True, False))
    assert twice.dense_bytes - once.dense_bytes == 32000 * 4096 * 2
    unsure = shape_of("Mixtral-8x7B-v0.1", tie_word_embeddings=None)
    assert unsure.dense_bytes == twice.dense_bytes
    assert not twice.notes
    assert "tie_word_embeddings is missing" in unsure.notes[0]


def test_multi_token_prediction_is_one_layer_more_if_it_is_asked_for() -> None:
    config = CONFIGS["DeepSeek-V3"]
    with_mtp = serving_shape(parse_model_config_with_mtp(config))
    without = shape_of("DeepSeek-V3")
    assert with_mtp.decoder_layers == without.decoder_layers + 1 == 62
    assert with_mtp.kv_bytes_per_token == 62 * 576 * 2
    assert len(with_mtp.expert_parameters) == 59


@pytest.mark.parametrize(
    ("size", "kind", "notes"), [(2, "bfloat16", 0), (1, "float8", 1), (1.05, "float8", 1), (0.53, "bfloat16", 1)]
)
def test_sizes_that_are_given_tell_the_type_if_nothing_else_does(size: float, kind: str, notes: int) -> None:
    config = CONFIGS["Mixtral-8x7B-v0.1"]
    shape = serving_shape(parse_model_config(config, given=GivenSizes(every=int(3 * 4096 * 14336 * size))))
    assert (shape.expert_dtype, len(shape.notes)) == (kind, notes)


def test_a_model_without_config_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--model-config"):
        serving_shape(ModelConfig("x", 1, (), None, None))


NEEDED = [
    ("DeepSeek-V3", ("num_attention_heads", "vocab_size", "qk_nope_head_dim", "v_head_dim", "intermediate_size")),
    ("Mixtral-8x7B-v0.1", ("num_attention_heads", "num_key_value_heads", "vocab_size")),
    ("gpt-oss-120b", ("layer_types", "sliding_window", "num_key_value_heads")),
    ("Qwen3-Next-80B-A3B-Instruct", ("linear_num_key_heads", "linear_value_head_dim", "num_key_value_heads")),
    ("Nemotron-3-Nano-30B-A3B", ("mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel")),
    ("MiMo-V2-Flash", ("swa_num_key_value_heads", "sliding_window")),
]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in NEEDED for field in fields])
@pytest.mark.parametrize("value", [None, -1, "8", 1.5, 2**30])
def test_a_field_that_is_missing_or_wrong_is_named_and_planning_goes_on(name: str, field: str, value: object) -> None:
    config = CONFIGS[name] | {field: value}
    if name == "MiMo-V2-Flash" and field == "sliding_window":
        config["sliding_window_size"] = None
    model = parse_model_config(config)
    with pytest.raises(CraftcError, match=field):
        serving_shape(model)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Mixtral-8x7B-v0.1", {"head_dim": None, "num_attention_heads": 48, "num_key_value_heads": 8}, "head_dim"),
        ("gpt-oss-120b", {"layer_types": ["full_attention"] * 35 + ["novel"]}, "novel"),
        ("Mixtral-8x7B-v0.1", {"sparse_attention_config": {"block": 64}}, "sparse_attention_config"),
        ("Mixtral-8x7B-v0.1", {"num_kv_shared_layers": 4}, "num_kv_shared_layers"),
        ("Mixtral-8x7B-v0.1", {"layer_types": ["linear_attention"] * 32}, "linear_num_value_heads"),
        ("Jamba-v0.1", {"mamba_ssm_cache_dtype": "int3"}, "mamba_ssm_cache_dtype"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(name: str, changes: dict[str, Any], words: str) -> None:
    model = parse_model_config(CONFIGS[name] | changes)
    with pytest.raises((BadInput, Unsupported), match=words):
        serving_shape(model)


def test_only_the_language_model_of_several_parts_is_counted() -> None:
    assert any("only the language model" in note for note in shape_of("Llama-4-Scout-17B-16E").notes)
