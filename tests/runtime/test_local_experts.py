from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from craftc.errors import Unsupported
from craftc.runtime.local_experts import expert_count, local_experts, run_rows, weighted_sum
from craftc.runtime.module_list_experts import ModuleListExperts
from tests.model_families import FAMILIES
from tests.runtime.layers import experts_of, routing

REPLACEABLE = [name for name, family in FAMILIES.items() if family.experts_abi]


@pytest.mark.parametrize("family", REPLACEABLE)
def test_local_experts_run_the_familys_own_arithmetic(family):
    experts = experts_of(family)
    hidden_TH, index_TK, weight_TK = routing(experts, tokens=11)
    order = (3, 0, 7, 5, 1, 2, 6, 4, 3)
    local = local_experts(experts, order)
    position_E = torch.tensor([order.index(expert) for expert in range(8)])
    got = local(hidden_TH, position_E[index_TK], weight_TK)
    torch.testing.assert_close(got, experts(hidden_TH, index_TK, weight_TK), rtol=1e-5, atol=1e-6)
    assert type(local) is type(experts)
    assert expert_count(local) == 9
    assert expert_count(experts) == 8


def test_weights_are_applied_in_the_wider_dtype():
    weight_TK = torch.full((1, 3), 1 + 3 / 512)
    summed = weighted_sum(torch.ones(3, 1, dtype=torch.bfloat16), weight_TK, torch.bfloat16)
    assert summed.item() == torch.tensor(3 * (1 + 3 / 512)).bfloat16().item(), "rounded once, not three times"


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_rows_summed_with_their_weights_are_the_experts_output(family):
    experts = experts_of(family)
    hidden_TH, index_TK, weight_TK = routing(experts, tokens=6)
    rows = run_rows(experts, hidden_TH.repeat_interleave(2, 0), index_TK.reshape(-1), weight_TK.dtype)
    got = weighted_sum(rows, weight_TK, hidden_TH.dtype)
    torch.testing.assert_close(got, experts(hidden_TH, index_TK, weight_TK), rtol=1e-5, atol=1e-6)


def test_selected_parameters_are_copies_that_keep_requires_grad():
    experts = experts_of("mixtral")
    experts.down_proj.requires_grad_(False)
    local: Any = local_experts(experts, (1, 2))
    assert local.gate_up_proj.requires_grad
    assert not local.down_proj.requires_grad
    with torch.no_grad():
        local.gate_up_proj.zero_()
    assert experts.gate_up_proj[1].any()


def test_meta_device_stays_meta():
    local: Any = local_experts(experts_of("mixtral").to("meta"), (1, 2, 5))
    assert local.gate_up_proj.is_meta
    assert local.gate_up_proj.shape[0] == 3


def test_a_module_per_expert_is_shared_not_copied():
    experts: Any = ModuleListExperts(nn.Linear(4, 4) for _ in range(3))
    local: Any = local_experts(experts, (2, 0))
    assert local.experts[0] is experts.experts[2]
    assert expert_count(local) == 2


def test_parameters_without_an_expert_axis_are_refused():
    experts = nn.Linear(4, 4)
    vars(experts)["num_experts"] = 3
    with pytest.raises(Unsupported, match=r"Linear: cannot select single experts: its parameters hold 4 experts"):
        local_experts(experts, (0,))
