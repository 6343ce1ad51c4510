"""The backend on transformers' own models, straight through the entry point."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from tests.backend.tiny_moe import round_robin_plan
from tests.model_families import FAMILIES, example_inputs


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small(name: str, blocks: int = 2) -> nn.Module:
    """The family with fewer blocks."""
    family = FAMILIES[name]
    options = family.options | {"num_hidden_layers": blocks}
    if "layer_types" in options:
        options["layer_types"] = options["layer_types"][:blocks]
    return dataclasses.replace(family, options=options).build()


def settings(model: nn.Module, **options: Any) -> dict[str, Any]:
    return {"plan": round_robin_plan(model, gpus=4, replicas=4), "inner": "eager", "strict": True, **options}


def compiled(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, backend="craftc", options=settings(model, **options))


@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss"])
def test_logits_and_gradients_are_the_models(name):
    model = small(name)
    run = compiled(model)
    inputs = example_inputs() | {"use_cache": False}
    ours, theirs = run(**inputs).logits, model(**inputs).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = (torch.autograd.grad(out.square().mean(), parameters, allow_unused=True) for out in (ours, theirs))
    for our, their in zip(*gradients, strict=True):
        assert (our is None) == (their is None)
        assert our is None or torch.allclose(our, their, atol=1e-5)


def test_batched_experts_bf16_and_new_shapes():
    model: Any = small("mixtral", blocks=1).to(torch.bfloat16)
    model.set_experts_implementation("batched_mm")
    run = compiled(model)
    with torch.no_grad():
        for shape in ((2, 7), (3, 9)):
            inputs = example_inputs(*shape) | {"use_cache": False}
            assert torch.allclose(run(**inputs).logits, model(**inputs).logits, atol=2e-2)


def test_generate_gives_the_same_tokens():
    model: Any = small("qwen3_moe")
    inputs = example_inputs(tokens=4)
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    model.compile(backend="craftc", options=settings(model))
    assert torch.equal(model.generate(**inputs, max_new_tokens=3, do_sample=False), expected)


def test_eager_experts_are_named_with_what_to_do(caplog):
    model: Any = small("mixtral", blocks=1)
    model.set_experts_implementation("eager")
    run = compiled(model, strict=False)
    inputs = example_inputs() | {"use_cache": False}
    with torch.no_grad():
        assert torch.allclose(run(**inputs).logits, model(**inputs).logits, atol=1e-6)
    assert caplog.text.count("call model.set_experts_implementation('grouped_mm')") == 1


def test_inductor_compiles_the_dense_parts():
    model = small("olmoe", blocks=1)
    run = compiled(model, inner="inductor")
    inputs = example_inputs() | {"use_cache": False}
    with torch.no_grad():
        assert torch.allclose(run(**inputs).logits, model(**inputs).logits, atol=1e-5)
