"""Which modules hold experts, by structure; what is almost one; and what is neither."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from craftc.passes.analysis.tracing.experts import ExpertsModule, block_index, find_experts
from craftc.passes.compilation import no_moe_layer
from examples.plain_moe import model as plain_moe
from tests.model_families import FAMILIES


def owner(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class Stacked(nn.Module):
    def __init__(self, *shapes: tuple[int, ...], num_experts: int | None = None) -> None:
        super().__init__()
        self.parts = nn.Identity()
        for number, shape in enumerate(shapes):
            self.register_parameter(f"weight_{number}", nn.Parameter(torch.zeros(shape)))
        if num_experts is not None:
            self.num_experts = num_experts

    def forward(self, hidden, index, weights):
        return hidden


class Narrow(Stacked):
    def forward(self, hidden, counts):  # type: ignore[override]
        return hidden


class StackedExperts(Stacked):
    """Named like experts, whatever it holds."""


class Anything(Stacked):
    def forward(self, *args):
        return args[0]


def test_fused_experts():
    model = owner(a=Stacked((4, 2, 3), (4, 3), num_experts=4), b=owner(c=Anything((2, 5, 5), num_experts=2)))
    assert find_experts(model) == ((ExpertsModule("a", "fused", 4), ExpertsModule("b.c", "fused", 2)), ())


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Stacked((4, 2, 3), (3, 4, 2), num_experts=4), r"disagree on the number of experts \(dim 0\): \[3, 4\]"),
        (Stacked((1, 2, 3), num_experts=1), "it holds 1 expert, at least 2"),
        (Stacked((4, 2, 3), num_experts=8), r"hold 4 experts \(dim 0\), its attributes say {'num_experts': 8}"),
        (StackedExperts((4, 2, 3)), "its parameters hold 4 experts .dim 0., its attributes say nothing of experts"),
        (StackedExperts((8, 3)), r"no 3-D parameters stacked over experts: it has weight_0 \[8, 3\]"),
        (
            Narrow((4, 2, 3), num_experts=4),
            r"forward takes 2 argument\(s\) \(hidden, counts\), the experts ABI needs 3",
        ),
    ],
)
def test_near_misses(module, reason):
    found, (miss,) = find_experts(owner(block=module))
    assert found == ()
    assert miss.name == "block"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(miss.reason)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 2, 3, bias=False),
        Stacked((4, 2, 3)),
        nn.Sequential(nn.Linear(2, 2)),
        owner(shared_experts=owner(up=nn.Linear(2, 2))),
        nn.ModuleList(nn.Linear(3, 3) for _ in range(5)),
    ],
    ids=["conv", "3-D without a count", "sequential", "shared experts", "a stack without a router"],
)
def test_what_is_not_even_almost(module):
    assert find_experts(owner(block=module)) == ((), ())


def listed(experts: int, router: int) -> Any:
    return owner(router=nn.Linear(7, router), experts=nn.ModuleList(nn.Linear(7, 7) for _ in range(experts)))


def test_a_list_of_alike_modules_beside_a_router():
    assert find_experts(listed(5, 5)) == ((ExpertsModule("experts", "module_list", 5),), ())
    nested = owner(router=nn.Linear(7, 5), pool=owner(experts=listed(5, 5).experts))
    assert find_experts(nested)[0] == (ExpertsModule("pool.experts", "module_list", 5),)


def test_lists_that_are_almost_experts():
    _, (no_router,) = find_experts(listed(5, 6))
    assert no_router.reason == "no router next to it: no parameter with a dim of 5 in the two modules above"
    mixed = owner(router=nn.Linear(7, 2), experts=nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 8)]))
    _, (unlike,) = find_experts(mixed)
    assert unlike.reason.startswith("its 2 modules are not alike: classes Linear")


def test_a_stack_of_blocks_that_hold_experts_is_no_list_of_experts():
    model = owner(width=nn.Linear(3, 4), layers=nn.ModuleList(listed(5, 5) for _ in range(3)))
    found, missed = find_experts(model)
    assert [module.path for module in found] == [f"layers.{block}.experts" for block in range(3)]
    assert missed == ()


def test_models():
    found, missed = find_experts(plain_moe.build_model())
    assert found == tuple(ExpertsModule(f"blocks.{block}.mlp.experts", "module_list", 8) for block in (1, 2, 3))
    assert missed == ()
    for family in FAMILIES.values():
        found, missed = find_experts(family.build())
        assert len(found) == len(family.layers)
        assert bool(missed) != family.experts_abi


def test_the_line_for_a_model_without_moe_layers():
    assert no_moe_layer("Linear", ()).startswith("Linear has no MoE layer: neither ")
    _, misses = find_experts(listed(5, 6))
    assert "1 near miss: experts: no router next to it" in no_moe_layer("Linear", misses)


def test_the_block_index_is_the_position_in_the_stack_of_blocks_not_the_first_number():
    blocks = nn.ModuleList(owner(parts=nn.ModuleList([nn.Identity(), nn.Identity()])) for _ in range(5))
    model = owner(towers=nn.ModuleList([nn.Identity(), owner(layers=blocks)]))
    assert block_index(model, "towers.1.layers.3.parts.0", ordinal=9) == 3


def test_without_a_stack_of_blocks_the_ordinal_counts():
    assert block_index(owner(mlp=owner(experts=nn.Identity())), "mlp.experts", ordinal=2) == 2
