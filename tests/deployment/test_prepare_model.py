from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from craftc import inspect
from craftc.deployment.prepare_model import prepare
from craftc.errors import BadInput
from craftc.plans.replication_plan import ReplicationPlan
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


def module_list_plan() -> ReplicationPlan:
    model = plain_moe.build_model()
    layers = inspect(model, next(iter(plain_moe.calibration_inputs()))).layers
    return plan_of(tuple(replace(random_layer(moe.name, 8, 2, 3), expert_bytes=moe.expert_bytes) for moe in layers), 2)


def test_a_module_list_needs_a_call_to_trace_its_owner():
    model = plain_moe.build_model()
    with pytest.raises(
        BadInput, match=r"blocks\.1\.mlp\.experts: its experts are a ModuleList.*prepare\(\.\.\., inputs"
    ):
        prepare(model, module_list_plan())
    assert isinstance(model.get_submodule("blocks.1.mlp.experts"), nn.ModuleList)


def test_owners_of_module_lists_become_graphs_with_replicated_experts():
    model = plain_moe.build_model()
    first, second = islice(plain_moe.calibration_inputs(), 2)
    other = {name: tensor[:1, :3] for name, tensor in second.items()}
    with torch.no_grad():
        expected = model(**other)
        prepared = prepare(model, module_list_plan(), inputs=first)
        assert prepared is model
        torch.testing.assert_close(model(**other), expected, rtol=1e-5, atol=1e-5)
    assert sum(isinstance(module, ReplicatedExperts) for module in model.modules()) == 3
    assert isinstance(model.get_submodule("blocks.1.mlp.experts"), ReplicatedExperts)
    kept = {id(parameter) for parameter in model.parameters()}
    assert len(kept) == len(list(plain_moe.build_model().parameters()))


def test_ranks_keep_only_their_own_modules(one_rank):  # noqa: F811
    model = plain_moe.build_model()
    inputs = next(iter(plain_moe.calibration_inputs()))
    with torch.no_grad():
        expected = model(**inputs)
        planned = module_list_plan()
        held = (tuple(range(8)),)
        layers = tuple(replace(layer, placement=held, replicas=0) for layer in planned.layers)
        prepare(model, plan_of(layers, 1), group=one_rank.process_group, inputs=inputs)
        torch.testing.assert_close(model(**inputs), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(model.get_submodule("blocks.2.mlp.experts"), ReplicatedExperts)
