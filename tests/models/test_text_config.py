"""Finding the language model in configs of multimodal models."""

from __future__ import annotations

from typing import Any

import pytest

from craftc.errors import BadInput, Unsupported
from craftc.models.text_config import text_config

MOE: dict[str, Any] = {"model_type": "qwen3_moe", "num_hidden_layers": 4, "num_experts": 8, "hidden_size": 64}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (MOE, ""),
        ({"text_config": MOE}, "text_config"),
        ({"llm_config": MOE, "vision_config": {"num_hidden_layers": 2, "num_experts": 4}}, "llm_config"),
        ({"language_config": MOE, "audio_config": {**MOE, "num_experts": 2}}, "language_config"),
        ({"thinker_config": {"text_config": MOE}, "talker_config": {"text_config": MOE}}, "thinker_config.text_config"),
        ({**MOE, "text_config": MOE}, "text_config"),
        ({"foo_config": {"bar": {"baz": MOE}}}, "foo_config.bar.baz"),
        ({"n_layers": 4, "d_model": 64, "ffn_config": {"moe_num_experts": 16}}, ""),
    ],
)
def test_where_the_experts_are(document: dict[str, Any], path: str) -> None:
    assert text_config(document).path == path


def test_fields_of_a_nested_part_and_of_the_model_around_it_are_one() -> None:
    document = {"model_type": "dbrx", "n_layers": 4, "ffn_config": {"moe_num_experts": 16, "model_type": ""}}
    found = text_config(document)
    assert (found.fields["moe_num_experts"], found.fields["n_layers"], found.model_type) == (16, 4, "dbrx")


def test_what_is_null_inside_is_taken_from_outside() -> None:
    document = {"dtype": "float16", "a": {"torch_dtype": "bfloat16", "b": {**MOE, "dtype": None, "model_type": None}}}
    found = text_config({"model_type": "outer", **document})
    assert found.outer("dtype", "torch_dtype") == "bfloat16"
    assert found.outer("nothing") is None
    assert found.model_type == "outer"


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"text_config": MOE, "llm_config": MOE}, "text_config and llm_config"),
        ({"a": {"b": MOE}, "c": {**MOE, "num_experts": 4}}, r"a\.b and c"),
        ({**MOE, "text_config": {**MOE, "num_experts": 4}}, "the file itself and text_config"),
    ],
)
def test_two_language_models_are_refused_by_name(document: dict[str, Any], where: str) -> None:
    with pytest.raises(BadInput, match=f"^{where} both describe a model with routed experts"):
        text_config(document)


@pytest.mark.parametrize("switch", ["is_moe", "use_moe", "enable_moe_block"])
def test_experts_that_are_turned_off_are_none(switch: str) -> None:
    with pytest.raises(Unsupported, match="no field says how many routed experts"):
        text_config({**MOE, switch: False})


@pytest.mark.parametrize("experts", [None, 0, 1, []])
def test_a_dense_model_has_no_experts(experts: Any) -> None:
    with pytest.raises(Unsupported, match=r"no field says how many routed experts .* its model_type is 'qwen3_moe'"):
        text_config({**MOE, "num_experts": experts})
