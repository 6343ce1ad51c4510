"""What a slot counts beside tokens, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.serving.objective import tokens_per_slot
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import EXPERTS, LAYERS, TOP_K, TOPOLOGY, cluster_of, even_loads, server_of, skewed_loads

ONE: dict[str, Any] = {
    "chip__hbm_tb_per_s": 2,
    "chip__peak_tflops__bfloat16": 300,
    "chip__expert_efficiency": 0.5,
    "chip__streaming_efficiency": 0.75,
}
SLOT_TOKENS = 2 / (2 * 0.75e12 * 2) * 300e12 * 0.5
"""Tokens of the server that take as long as one expert: 2 bytes per weight, 2 operations per weight and token."""
RECORDED = EXPERTS * 256


def test_in_prefill_a_slot_is_as_many_tokens_as_the_loads_have_for_those_of_a_step():
    server = server_of(cluster_of(**ONE), workload=Workload(1000, 10, chunk=500))
    served = 2 * 500 * TOP_K
    assert tokens_per_slot(server, even_loads(), TOPOLOGY) == pytest.approx(SLOT_TOKENS * RECORDED / served)


def test_in_decode_the_requests_in_flight_decide():
    server = server_of(cluster_of(**ONE), workload=Workload(1000, 10, phase="decode", batch=2))
    served = 2 * 2 * 8 * TOP_K
    assert tokens_per_slot(server, even_loads(), TOPOLOGY) == pytest.approx(SLOT_TOKENS * RECORDED / served)


def test_without_any_cache_it_is_still_a_number():
    server = server_of(cluster_of(chip__hbm_gib=0.1, **ONE), workload=Workload(1000, 10, phase="decode"))
    assert tokens_per_slot(server, even_loads(), TOPOLOGY) == pytest.approx(SLOT_TOKENS * RECORDED / TOP_K)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 64), st.integers(1, 64))
def test_smaller_batches_make_slots_count_more(one, other):
    small, large = sorted((one, other))
    few, many = (
        tokens_per_slot(server_of(workload=Workload(64, 8, phase="decode", batch=batch)), skewed_loads(), TOPOLOGY)
        for batch in (small, large)
    )
    assert few >= many > 0


def test_loads_of_twice_the_tokens_count_slots_twice():
    one, two = (tokens_per_slot(server_of(), skewed_loads(tokens=tokens), TOPOLOGY) for tokens in (4096, 8192))
    assert two == pytest.approx(2 * one)


def test_of_fewer_layers_the_tokens_of_each_count():
    whole, short = (tokens_per_slot(server_of(), even_loads(layers=layers), TOPOLOGY) for layers in (LAYERS, 2))
    assert short == pytest.approx(whole)
    assert tokens_per_slot(server_of(), even_loads(), Topology(8)) == pytest.approx(2 * whole)
