from __future__ import annotations

from typing import Any

import pytest
import torch

from craftc.errors import BadInput
from craftc.prepare_model import prepare
from craftc.runtime.replicated_experts import ReplicatedExperts
from examples.plain_moe import model as plain_moe
from tests.integration.families import plan_for
from tests.model_families import FAMILIES, example_inputs
from tests.runtime.one_rank import one_rank  # noqa: F401
from tests.runtime.plans import plan_of, random_layer


def test_experts_are_replaced_in_place_and_generate_works():
    model: Any = FAMILIES["mixtral"].build()
    inputs = example_inputs(batch=2, tokens=5)
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    prepared: Any = prepare(model, plan_for(model, 3))
    assert prepared is model
    assert sum(isinstance(module, ReplicatedExperts) for module in model.modules()) == 3
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)


def test_on_ranks_only_own_copies_stay(one_rank):  # noqa: F811
    model: Any = FAMILIES["mixtral"].build()
    inputs = example_inputs()
    with torch.no_grad():
        expected = model(**inputs).logits
        prepared = prepare(model, plan_for(model, 1), group=one_rank.process_group, copy_rule="local-first")
        torch.testing.assert_close(prepared(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


def test_virtual_gpus_have_no_local_copies():
    model: Any = FAMILIES["mixtral"].build()
    with pytest.raises(BadInput, match="copy rule 'local-first' needs ranks"):
        prepare(model, plan_for(model, 2), copy_rule="local-first")


def test_a_plan_of_another_model_leaves_the_model_alone():
    model: Any = FAMILIES["mixtral"].build()
    other = plan_for(FAMILIES["qwen2_moe"].build(), 2)
    with pytest.raises(BadInput, match="plan does not belong to this model"):
        prepare(model, other)
    assert not any(isinstance(module, ReplicatedExperts) for module in model.modules())


def test_experts_in_a_module_list_are_refused_with_the_way_out():
    model = plain_moe.build_model()
    layers = tuple(random_layer(f"blocks.{block}.mlp.experts", 8, 2, 0) for block in (1, 2, 3))
    with pytest.raises(BadInput, match=r"experts are a ModuleList.*or craftc\.load"):
        prepare(model, plan_of(layers, 2))
