"""KV cache: what every part takes, by hand; and what to do where nothing is left."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import Infeasible
from craftc.models.attention_shape import WindowCache
from craftc.serving.memory import (
    GIB,
    KVCache,
    cache_bytes,
    even_bytes,
    fullest_gpu_bytes,
    kv_cache,
    request_bytes,
    require_cache,
)
from craftc.serving.workload import Workload
from craftc.solvers.planners.published import placement_only
from craftc.solvers.problem import PlanningProblem
from craftc.topology import Topology
from tests.serving.small_server import (
    EXPERT_BYTES,
    EXPERTS,
    GROUPED,
    LAYERS,
    TOPOLOGY,
    cluster_of,
    model_of,
    server_of,
    skewed_counts,
)

EVEN = tuple(tuple(range(gpu * 2, gpu * 2 + 2)) for gpu in range(16))


def test_a_gpu_keeps_its_dense_part_its_experts_and_a_buffer_for_every_rank():
    server = server_of(cluster_of(chip__hbm_gib=10, server__memory_fraction=0.5, server__buffer_gib_per_rank=0.25))
    cache = kv_cache(server, TOPOLOGY, 1000.0)
    assert cache.bytes_per_gpu == pytest.approx(5 * GIB - server.shape.dense_bytes / 8 - 1000 - 0.5 * GIB)


def test_a_request_takes_its_prompt_and_its_output_and_in_prefill_its_prompt():
    per_token = 5 * (512 + 64) * 2
    assert request_bytes(server_of(workload=Workload(100, 28))) == 128 * per_token
    assert request_bytes(server_of(workload=Workload(100, 28, phase="decode"))) == 128 * per_token
    assert request_bytes(server_of(workload=Workload(100, 28, phase="prefill"))) == 100 * per_token


def test_heads_split_the_cache_but_not_further_than_there_are_heads():
    server = server_of(model=model_of(GROUPED))
    whole = LAYERS * 2 * 4 * 128 * 2 * 50
    assert [cache_bytes(server.shape, parallel, 50) for parallel in (1, 2, 4, 8)] == [
        whole,
        whole / 2,
        whole / 4,
        whole / 4,
    ]


def test_windows_keep_some_tokens_and_states_do_not_grow():
    shape = replace(server_of().shape, kv_bytes_per_token=10, windows=(WindowCache(16, 3, 0),), state_bytes=80)
    assert cache_bytes(shape, 1, 4) == 10 * 4 + 3 * 4 + 80
    assert cache_bytes(shape, 1, 100) == 10 * 100 + 3 * 16 + 80
    assert cache_bytes(shape, 8, 100) == 10 * 100 + 3 * 16 + 10


@pytest.mark.parametrize(
    ("left", "takes", "requests"), [(99.9, 10.0, 9), (100.0, 10.0, 10), (9.0, 10.0, 0), (-500.0, 10.0, 0), (0.0, 1, 0)]
)
def test_requests_are_whole_and_never_negative(left, takes, requests):
    assert KVCache(left, takes).requests == requests


def test_the_gpu_with_most_experts_over_all_layers_decides():
    server = server_of()
    one_more = ((*EVEN[0], 31), *EVEN[1:])
    elsewhere = (*EVEN[:-1], (*EVEN[-1], 0))
    assert fullest_gpu_bytes(server, TOPOLOGY, [EVEN] * 4) == 8 * EXPERT_BYTES
    assert fullest_gpu_bytes(server, TOPOLOGY, [one_more, one_more, EVEN, EVEN]) == 10 * EXPERT_BYTES
    assert fullest_gpu_bytes(server, TOPOLOGY, [one_more, elsewhere, EVEN, EVEN]) == 9 * EXPERT_BYTES


def test_layers_without_loads_take_memory_too():
    server = server_of()
    assert fullest_gpu_bytes(server, TOPOLOGY, [EVEN] * 3) == 8 * EXPERT_BYTES
    assert fullest_gpu_bytes(server, Topology(24, 3), [((0,),) * 24] * 3) == (3 + 2) * EXPERT_BYTES


def test_even_experts_are_the_models_over_all_gpus():
    assert even_bytes(server_of(), TOPOLOGY) == LAYERS * EXPERTS * EXPERT_BYTES / 16


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 100), st.floats(0, 50), st.floats(0, 1e9))
def test_more_memory_is_more_cache_and_experts_take_it_byte_by_byte(hbm: float, more: float, experts: float):
    small, large = (server_of(cluster_of(chip__hbm_gib=size)) for size in (hbm, hbm + more))
    before, after = (kv_cache(server, TOPOLOGY, experts) for server in (small, large))
    assert before.bytes_per_gpu <= after.bytes_per_gpu
    assert before.requests <= after.requests
    assert kv_cache(small, TOPOLOGY, 0.0).bytes_per_gpu - before.bytes_per_gpu == pytest.approx(experts, abs=1)


def refusal(server, topology, held: float) -> str:
    with pytest.raises(Infeasible) as refused:
        require_cache(server, topology, held)
    return str(refused.value)


def test_what_is_missing_is_stated_and_is_exactly_enough():
    server = server_of(cluster_of(chip__hbm_gib=0.25, server__memory_fraction=1))
    held = even_bytes(server, TOPOLOGY)
    message = refusal(server, TOPOLOGY, held)
    short = float(re.findall(r"([0-9.]+) GiB short per GPU", message)[0])
    exact = (request_bytes(server) - kv_cache(server, TOPOLOGY, held).bytes_per_gpu) / GIB
    assert short == pytest.approx(exact, abs=0.005)
    more = server_of(cluster_of(chip__hbm_gib=0.25 + exact + 1e-6, server__memory_fraction=1))
    assert require_cache(more, TOPOLOGY, held).requests == 1


def without_replicas(server, topology) -> float:
    """Bytes of experts on the fullest GPU, placed without replicas."""
    counts_SLE = skewed_counts(1.0, steps=2)
    placements = placement_only(PlanningProblem(counts_SLE, topology, (EXPERT_BYTES,) * LAYERS, 0))
    return fullest_gpu_bytes(server, topology, placements)


@pytest.mark.parametrize("hbm_gib", [1.02, 1.05, 1.1, 1.2, 1.5, 2.0])
@pytest.mark.parametrize("topology", [Topology(16, 2), Topology(8), Topology(2)])
def test_the_fewest_gpus_are_enough_and_fewer_are_not(hbm_gib, topology):
    figures = {"chip__hbm_gib": hbm_gib, "server__tensor_parallel": 1, "server__buffer_gib_per_rank": 0.003}
    server = server_of(cluster_of(**figures))
    held = without_replicas(server, topology)
    if kv_cache(server, topology, held).requests:
        return
    message = refusal(server, topology, held)
    gpus, nodes = map(int, re.findall(r"fewest GPUs that are enough are (\d+) \((\d+) nodes?\)", message)[0])
    enough = Topology(gpus, nodes)
    assert require_cache(server, enough, without_replicas(server, enough)).requests >= 1
    fewer = [Topology(count) for count in range(1, min(8, gpus - 1) + 1)]
    fewer += [Topology(8 * count, count) for count in range(2, nodes)]
    assert not any(kv_cache(server, each, without_replicas(server, each)).requests for each in fewer)


def test_part_of_a_node_is_first_made_a_whole_one():
    server = server_of(cluster_of(chip__hbm_gib=1.0, server__tensor_parallel=4))
    message = refusal(server, Topology(4), without_replicas(server, Topology(4)))
    assert "the fewest GPUs that are enough are 8 (1 node)" in message


def test_every_gpu_needs_an_expert():
    model = model_of(num_hidden_layers=2, n_routed_experts=12)
    figures: dict[str, Any] = {
        "server__memory_fraction": 1,
        "server__buffer_gib_per_rank": 0,
        "server__tensor_parallel": 1,
    }
    one = server_of(model=model).shape.dense_bytes + EXPERT_BYTES
    server = server_of(cluster_of(chip__hbm_gib=one / GIB + 0.01, **figures), model)
    assert kv_cache(server, Topology(16, 2), EXPERT_BYTES).requests >= 1
    assert "no number of such GPUs is enough" in refusal(server, Topology(8), 2 * EXPERT_BYTES)


def test_buffers_that_grow_with_ranks_are_helped_by_fewer_gpus():
    server = server_of(cluster_of(chip__hbm_gib=2.0, server__buffer_gib_per_rank=0.4))
    message = refusal(server, Topology(32, 4), without_replicas(server, Topology(32, 4)))
    assert "the fewest GPUs that are enough are 8 (1 node)" in message


def test_a_prompt_that_no_number_of_gpus_holds():
    server = server_of(workload=Workload(2**24, 1))
    message = refusal(server, TOPOLOGY, even_bytes(server, TOPOLOGY))
    assert "no KV cache for a request of 16777216 + 1 tokens on 16 GPUs of a100-80g-efa" in message
    assert "no number of such GPUs is enough: choose larger ones, shorter requests or smaller weights" in message
