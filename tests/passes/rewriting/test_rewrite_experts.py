from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from craftc.errors import BadInput
from craftc.models.workload import WorkloadInputs
from craftc.passes.base import PassContractError, run_checked
from craftc.passes.compilation import Compilation, updated
from craftc.passes.rewriting.rewrite_experts import RewriteExperts
from craftc.plans.replication_plan import ReplicationPlan
from craftc.runtime.replicated_experts import ReplicatedExperts
from tests.passes.traced import planned, traced


def test_every_layer_is_replaced_and_outputs_stay(traced_and_planned):
    compilation = traced_and_planned
    before = compilation.graph(**compilation.inputs.example)
    rewritten: Any = run_checked(RewriteExperts(), compilation).graph
    targets = [node.target for node in rewritten.graph.nodes if "moe" in node.meta]
    assert len(targets) == len(compilation.plan.layers)
    assert all(isinstance(rewritten.get_submodule(target), ReplicatedExperts) for target in targets)
    torch.testing.assert_close(rewritten(**compilation.inputs.example), before, rtol=0, atol=0)


def test_the_traced_graph_and_the_model_stay_as_they_were(traced_and_planned):
    compilation = traced_and_planned
    run_checked(RewriteExperts(), compilation)
    for root in (compilation.graph, compilation.model):
        assert not any(isinstance(module, ReplicatedExperts) for module in root.modules())


def test_weights_are_shared_with_the_model(traced_and_planned):
    compilation = traced_and_planned
    rewritten: Any = run_checked(RewriteExperts(), compilation).graph
    own = {id(parameter) for parameter in compilation.model.parameters()}
    assert {id(parameter) for parameter in rewritten.parameters()} <= own


def _without_a_layer(plan: ReplicationPlan) -> ReplicationPlan:
    return replace(plan, layers=plan.layers[1:])


def _renamed(plan: ReplicationPlan) -> ReplicationPlan:
    return replace(plan, layers=(replace(plan.layers[0], name="other.experts"), *plan.layers[1:]))


def _larger_experts(plan: ReplicationPlan) -> ReplicationPlan:
    return replace(plan, layers=(replace(plan.layers[0], expert_bytes=7), *plan.layers[1:]))


def _more_experts(plan: ReplicationPlan) -> ReplicationPlan:
    first = plan.layers[0]
    placement = ((*first.placement[0], first.experts), *first.placement[1:])
    return replace(plan, layers=(replace(first, experts=first.experts + 1, placement=placement), *plan.layers[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_layer, "its MoE layer .* is not planned"),
        (_renamed, r"no MoE layer other\.experts in it"),
        (_larger_experts, "has 7 bytes in the plan"),
        (_more_experts, "has 9 experts in the plan, 8 in the model"),
    ],
)
def test_a_plan_of_another_model_is_refused_in_one_line(traced_and_planned, change, message):
    wrong = updated(traced_and_planned, plan=change(traced_and_planned.plan))
    with pytest.raises(BadInput, match=message) as caught:
        run_checked(RewriteExperts(), wrong)
    assert "\n" not in str(caught.value)


def test_needs_a_plan():
    with pytest.raises(PassContractError, match="needs"):
        run_checked(RewriteExperts(), Compilation(model=nn.Linear(1, 1), inputs=WorkloadInputs({})))


@pytest.fixture
def traced_and_planned() -> Compilation:
    return planned(traced("mixtral"), gpus=3)
