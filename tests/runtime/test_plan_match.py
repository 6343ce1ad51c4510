from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from craftc.errors import BadInput
from craftc.runtime.module_list_experts import ModuleListExperts
from craftc.runtime.plan_match import check_layer_fits, check_same_layers, expert_bytes
from tests.runtime.layers import experts_of
from tests.runtime.plans import plan_of, random_layer

LAYER = replace(random_layer("a.experts", 8, 2, 2), expert_bytes=3 * 32 * 24 * 4)
PLAN = plan_of((LAYER,), 2)


def test_the_same_layers_pass():
    check_same_layers(PLAN, ["a.experts"])
    check_layer_fits(LAYER, experts_of("mixtral"))


def test_a_planned_layer_that_the_model_has_not():
    with pytest.raises(BadInput, match=r"no MoE layer a\.experts in it \(1 of the plan's 1 layers are missing"):
        check_same_layers(PLAN, ["b.experts"])


def test_a_layer_of_the_model_that_is_not_planned():
    with pytest.raises(BadInput, match=r"its MoE layer b\.experts is not planned \(1 of 2 layers\)"):
        check_same_layers(PLAN, ["a.experts", "b.experts"])


def test_another_number_of_experts():
    with pytest.raises(BadInput, match="has 9 experts in the plan, 8 in the model"):
        check_layer_fits(replace(LAYER, experts=9), experts_of("mixtral"))


def test_another_dtype_has_another_size():
    with pytest.raises(BadInput, match="has 9,216 bytes in the plan, 4,608 in the model"):
        check_layer_fits(LAYER, experts_of("mixtral").bfloat16())


def test_size_of_an_expert_of_a_list():
    assert expert_bytes(ModuleListExperts(nn.Linear(4, 4) for _ in range(3))) == 20 * 4
