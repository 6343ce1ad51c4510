"""A sound plan passes; every rule has a mutation that this rule alone catches."""

from dataclasses import replace

import pytest

from craftc.solvers.verifier import PlacedLayer, violations

FIRST = PlacedLayer("a", 4, 10, 2, ((0, 1), (2, 0), (3, 1)))
SECOND = PlacedLayer("b", 4, 10, 2, ((2, 3), (0, 3), (1, 2)))
SOUND = (FIRST, SECOND)
SHARES = ((0.25, 1.0), (1.0, 0.75), (1.0, 0.0))


def first(**changes):
    return (replace(FIRST, **changes), SECOND)


MUTATIONS = {
    "wrong number of GPUs": (first(placement=((0, 1), (2, 0), (3, 1), ())), "placed on 4 GPUs"),
    "unknown expert": (first(placement=((0, 1), (2, 0), (3, 4))), "expert 4 is not in 0..3"),
    "expert without a copy": (first(placement=((0, 1), (2, 0), (2, 1))), "expert 3 has no copy"),
    "expert twice on a GPU": (first(placement=((0, 0), (2, 1), (3, 1))), "GPU 0 holds expert 0 2 times"),
    "uneven slots": (
        (
            replace(FIRST, placement=((0, 1, 3), (2, 0), (1,))),
            replace(SECOND, placement=((3,), (0, 3), (1, 2, 0))),
        ),
        "slots per GPU",
    ),
    "stated replicas": (first(replicas=3), "3 replicas stated, 2 placed"),
    "share above one": (first(shares=((0.25, 1.5), (1.0, 0.75), (1.0, -0.5))), "must be in 0..1"),
    "shares that do not sum to one": (first(shares=((0.5, 1.0), (1.0, 0.75), (1.0, 0.0))), "sum to 1.25"),
    "negative share": (
        first(placement=((0, 1), (2, 0), (3, 0)), shares=((-0.2, 1.0), (1.0, 0.6), (1.0, 0.6))),
        "GPU 0 has share -0.2 of expert 0",
    ),
    "shares of another shape": (first(shares=((0.25,), (1.0, 0.75), (1.0, 0.0))), "not shaped"),
}


def test_a_sound_plan_has_no_violations():
    assert violations(SOUND, 3, 40, 40) == ()
    assert violations(first(shares=((0.25, 1.0), (1.0, 0.75), (1.0, 0.0))), 3) == ()


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_layer_rule_is_caught(name):
    layers, message = MUTATIONS[name]
    found = violations(layers, 3)
    assert any(message in violation for violation in found), found
    assert all(message in violation or "layer" in violation for violation in found)


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - {"wrong number of GPUs", "unknown expert", "uneven slots"}))
def test_a_mutation_breaks_only_its_own_rule(name):
    layers, message = MUTATIONS[name]
    found = violations(layers, 3, 40, 40)
    assert {message in violation for violation in found} == {True}


def test_bytes_over_layers_may_differ_by_one_expert_only():
    # Even within each layer, but GPU 0 always gets the extra slot.
    layers = [PlacedLayer(str(n), 3, 10, 1, ((0, 1), (2,), (0,))) for n in range(2)]
    assert [m for m in violations(layers, 3) if "memory" in m] == [
        "memory: 20 to 40 bytes per GPU, more than one expert (10 bytes) apart"
    ]


def test_equal_sizes_that_divide_must_be_exactly_even():
    layers = [PlacedLayer("a", 3, 10, 0, ((0, 1), (2,))), PlacedLayer("b", 3, 10, 0, ((0, 1), (2,)))]
    assert violations(layers, 2) == ("memory: 20 to 40 bytes per GPU, more than one expert (10 bytes) apart",)
    layers[1] = replace(layers[1], placement=((0,), (1, 2)))
    assert violations(layers, 2) == ()


def test_different_sizes_may_differ_by_the_largest_expert():
    layers = [PlacedLayer("a", 3, 10, 0, ((0, 1), (2,))), PlacedLayer("b", 3, 4, 0, ((0, 1), (2,)))]
    assert violations(layers, 2) == ("memory: 14 to 28 bytes per GPU, more than one expert (10 bytes) apart",)
    layers[1] = replace(layers[1], placement=((0,), (1, 2)))
    assert violations(layers, 2) == ()


def test_budget_and_spending():
    assert violations(SOUND, 3, 39, 40) == ("budget: replicas take 40 bytes of 39, 1 too many",)
    assert violations(SOUND, 3, 50, 50) == ("budget: 50 bytes stated as spent, the replicas take 40",)
