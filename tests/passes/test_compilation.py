"""What is known is read, what is not known yet is never None."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from craftc.errors import BadInput
from craftc.passes.compilation import (
    Compilation,
    NearMiss,
    PassContractError,
    grouped,
    require_moe_layers,
    updated,
)
from tests.plans.sample_plans import toy_layers, toy_plan


def test_what_is_not_known_yet_says_which_pass_gives_it():
    known = Compilation(layers=toy_layers())
    assert known.layers == toy_layers()
    assert known.knows("layers")
    assert not known.knows("plan")
    with pytest.raises(PassContractError, match="plan is not known yet: place_replicas gives it"):
        _ = known.plan
    with pytest.raises(KeyError):
        known.knows("plans")


def test_an_updated_copy_knows_more_and_the_first_stays_as_it_was():
    known = Compilation(layers=toy_layers())
    more = updated(known, plan=toy_plan())
    assert (more.layers, more.plan) == (known.layers, toy_plan())
    assert not known.knows("plan")
    with pytest.raises(TypeError, match="unexpected keyword argument 'plans'"):
        updated(known, plans=toy_plan())  # type: ignore[call-arg]


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Compilation().plan = toy_plan()  # type: ignore[misc]


def test_it_is_printed_by_what_it_knows():
    assert repr(Compilation(layers=toy_layers(), plan=toy_plan())).startswith(
        "Compilation(knows layers, near_misses, plan"
    )


@pytest.mark.parametrize(
    ("misses", "message"),
    [
        ((), "the model has no MoE layer: neither"),
        ((NearMiss("mlp.experts", "why"),), "1 near miss: mlp.experts: why"),
        ((NearMiss("a", "why"), NearMiss("b", "why")), r"2 near misses \(craftc inspect\), the first: a: why"),
    ],
)
def test_without_layers_the_first_near_miss_is_named(misses: tuple[NearMiss, ...], message: str):
    with pytest.raises(BadInput, match=message):
        require_moe_layers(Compilation(layers=(), near_misses=misses))


def test_near_misses_that_differ_only_in_the_layer_are_one_line():
    alike = tuple(
        NearMiss(f"model.layers.{layer}.mlp.experts", f"its owner model.layers.{layer} has 8 ways")
        for layer in range(20)
    )
    other = NearMiss("model.layers.3.mlp.experts", "its owner model.layers.3 has 9 ways")
    assert grouped((*alike, other)) == (NearMiss("model.layers.0.mlp.experts and 19 more", alike[0].reason), other)
