from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.budget import (
    Budget,
    bytes_for_empty_gpus,
    largest_useful_bytes,
    most_replicas,
    parse_budget,
    resolve_budget,
)
from craftc.errors import BadInput, CraftcError, Infeasible
from craftc.models.moe_layer import MoELayer
from craftc.topology import Topology

MIB = 2**20
LAYERS = tuple(MoELayer(f"layers.{index}", index, experts=8, expert_bytes=3 * MIB) for index in range(4))
TOPOLOGY = Topology(4, 2)


def resolved(text: str, layers: tuple[MoELayer, ...] = LAYERS, topology: Topology = TOPOLOGY) -> int:
    return resolve_budget(parse_budget(text), layers, topology)


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("24MiB", 24 * MIB),
        ("6MiB/gpu", 24 * MIB),
        ("6 MiB / GPU", 24 * MIB),
        ("2replicas/gpu", 2 * 4 * 3 * MIB),
        ("1 replica/gpu", 4 * 3 * MIB),
        ("0.5replicas/gpu", 2 * 3 * MIB),
        ("25%", 4 * 8 * 3 * MIB // 4),
        ("12.5 %", 4 * 8 * 3 * MIB // 8),
        ("0B", 0),
        ("0%", 0),
        ("0replicas/gpu", 0),
        ("24replicas/gpu", 4 * 24 * 3 * MIB),
        ("300%", 3 * 4 * 8 * 3 * MIB),
    ],
)
def test_every_form_resolves_to_bytes(text: str, expected_bytes: int):
    assert resolved(text) == expected_bytes


def test_replicas_are_counted_in_experts_of_the_largest_layer():
    mixed = (MoELayer("a", 0, experts=8, expert_bytes=MIB), MoELayer("b", 1, experts=8, expert_bytes=5 * MIB))
    assert resolved("1replica/gpu", mixed) == 4 * 5 * MIB


def test_auto_resolves_to_the_largest_budget_of_use():
    assert parse_budget("auto") == Budget("auto", "auto", Fraction(0))
    assert resolved("auto") == largest_useful_bytes(LAYERS, TOPOLOGY) == 4 * 4 * 3 * MIB


def test_bytes_that_leave_no_gpu_without_an_expert():
    assert bytes_for_empty_gpus(LAYERS, TOPOLOGY) == 0
    assert bytes_for_empty_gpus(LAYERS, Topology(34)) == 2 * 3 * MIB


@pytest.mark.parametrize("text", ["8G", "8G/gpu", "1.5t"])
def test_an_ambiguous_unit_shows_both_readings(text: str):
    with pytest.raises(
        BadInput, match=r"budget '.*': size '.*' is ambiguous: write .*B \(.* bytes\) or .*iB \(.* bytes\)"
    ):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1GiB", "is negative"),
        ("-3replicas/gpu", "is negative"),
        ("", "cannot be read: expected 64GiB"),
        ("/gpu", "cannot be read"),
        ("GiB", "cannot be read"),
        ("12", "unit must be one of"),
        ("5XB", "unit must be one of"),
        ("nan", "cannot be read"),
        ("nan%", "cannot be read"),
        ("infGiB", "cannot be read"),
        ("nanreplicas/gpu", "cannot be read"),
        ("1e3GiB", "cannot be read"),
        ("64GiB\n", None),
        ("64\nGiB/gpu", None),
        ("8replicas", "replicas are counted per GPU, write 8replicas/gpu"),
        ("5%/gpu", "a percentage is of all experts' memory together, write 5%"),
        ("9000000TiB", "at most 8 EiB"),
        ("9" * 100 + "GiB", "budget of 103 characters"),
        ("64GiB/node", "cannot be read"),
    ],
)
def test_refuses_in_one_line(text: str, message: str | None):
    if message is None:
        assert parse_budget(text).kind in ("bytes", "bytes_per_gpu")
        return
    with pytest.raises(BadInput, match=message) as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("25replicas/gpu", "asks for 100 replicas on 4 GPUs, but there is room for 96, .* give at most 24replicas/gpu"),
        ("301%", "on 4 GPUs there is room for at most 300% more"),
        ("4000000TiB/gpu", "more than any machine has"),
    ],
)
def test_refuses_more_than_there_is_room_for(text: str, message: str):
    with pytest.raises(BadInput, match=message):
        resolved(text)


def test_a_single_gpu_has_no_room_for_replicas():
    assert most_replicas(LAYERS, Topology(1)) == 0
    assert resolved("0replicas/gpu", topology=Topology(1)) == 0
    with pytest.raises(BadInput, match="room for 0"):
        resolved("1replica/gpu", topology=Topology(1))


def test_a_budget_that_buys_nothing_names_the_shortfall_and_the_smallest_that_works():
    with pytest.raises(Infeasible, match=r"1\.00 MiB, 2,097,152 bytes less than .* give at least 3145728B"):
        resolved("1MiB")
    for rounded_to_nothing in ("0.2replicas/gpu", "0.0000001%"):
        with pytest.raises(Infeasible, match=r"is 0 B, 3,145,728 bytes less than .* give at least 3145728B"):
            resolved(rounded_to_nothing)
    assert resolved("3145728B") == 3 * MIB


def test_gpus_without_experts_name_the_shortfall_and_the_smallest_that_works():
    with pytest.raises(Infeasible, match=r"48 GPUs, but 32 experts .* give at least 50331648B, or at most 32 GPUs"):
        resolved("0B", topology=Topology(48))
    assert resolved("50331648B", topology=Topology(48)) == 16 * 3 * MIB


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=20))
def test_any_text_is_a_budget_or_one_clear_line(text: str):
    message = ""
    try:
        resolve_budget(parse_budget(text), LAYERS, TOPOLOGY)
    except CraftcError as error:
        message = str(error)
    assert "\n" not in message


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 96), st.sampled_from(["MiB", "MiB/gpu", "replicas/gpu", "%"]), st.integers(1, 16))
def test_bigger_budgets_are_never_fewer_bytes(amount: int, unit: str, gpus: int):
    topology = Topology(gpus)
    values = []
    for number in (amount, amount + 1):
        try:
            values.append(resolved(f"{number}{unit}", topology=topology))
        except Infeasible:
            values.append(0)
        except BadInput:
            values.append(2**63)
    assert values == sorted(values)
