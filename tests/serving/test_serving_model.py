"""What belongs together: model, cluster, GPUs, loads and plans; each refusal says what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from craftc.errors import BadInput
from craftc.models.model_config import ModelConfig
from craftc.models.moe_layer import MoELayer
from craftc.serving.serving_model import ServingModel
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import (
    EXPERTS,
    LATENT,
    LAYERS,
    TOP_K,
    cluster_of,
    model_of,
    plan_of,
    server_of,
    skewed_loads,
)


def test_a_requests_ranks_are_groups_of_tensor_parallel_gpus():
    server = server_of(cluster_of(server__tensor_parallel=4))
    assert server.tensor_parallel == 4
    assert [server.ranks(Topology(*gpus)) for gpus in ((16, 2), (8, 1), (4, 1))] == [4, 2, 1]
    assert server.top_k_L == (TOP_K,) * LAYERS


@pytest.mark.parametrize("gpus", [(2, 1), (6, 1), (7, 1)])
def test_tensor_parallelism_that_does_not_divide_a_node_is_refused(gpus):
    server = server_of(cluster_of(server__tensor_parallel=4))
    with pytest.raises(BadInput, match=rf"over 4 GPUs \(cluster .*\) does not divide the {gpus[0]} GPUs of a node"):
        server.ranks(Topology(*gpus))


@pytest.mark.parametrize("gpus", [(16, 1), (16, 4), (8, 2), (12, 1), (12, 2), (24, 1), (63, 7), (20, 5)])
def test_nodes_of_other_sizes_are_refused_and_what_is_advised_works(gpus):
    server = server_of()
    with pytest.raises(BadInput, match="has 8 GPUs a node") as refused:
        server.ranks(Topology(*gpus))
    message = str(refused.value)
    assert f"{gpus[0]} GPUs on {gpus[1]} nodes are {gpus[0] // gpus[1]} a node" in message
    advised = re.findall(r"give (?:--gpus (\d+) )?--nodes (\d+)", message)[0]
    server.ranks(Topology(int(advised[0] or gpus[0]), int(advised[1])))


def test_a_model_that_is_not_known_well_enough_is_refused_at_once():
    layers = tuple(MoELayer(f"layers.{n}", n, 8, 100) for n in range(2))
    with pytest.raises(BadInput, match=r"is read from its config\.json"):
        server_of(model=ModelConfig("unknown", 2, layers, None, None))
    layers = tuple(replace(layer, top_k=None) for layer in model_of().layers)
    with pytest.raises(BadInput, match="does not say how many experts a token gets"):
        server_of(model=replace(model_of(), layers=layers))


def test_types_that_a_chip_does_not_multiply_are_done_in_16_bits_and_said():
    fp8 = model_of(quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})
    a100, h100 = (ServingModel(fp8, cluster_of(name)) for name in ("a100-80g-efa", "h100-ib"))
    assert a100.peak_flops("float8") == a100.peak_flops("bfloat16") == 312e12
    assert h100.peak_flops("float8") == 1979e12
    assert h100.notes == ()
    assert len(a100.notes) == 2
    assert all("does not multiply in float8" in note for note in a100.notes)


def test_loads_get_the_models_names_or_are_refused():
    server = server_of()
    assert server.matched(skewed_loads()).layer_names == tuple(layer.name for layer in server.model.layers)
    with pytest.raises(BadInput, match=f"loads are of 16 experts, the model .* has {EXPERTS}"):
        server.matched(skewed_loads(experts=16))
    for layers in (1, LAYERS - 1, LAYERS + 1):
        with pytest.raises(BadInput, match=f"loads are of {layers} layers, the model .* has {LAYERS} MoE layers"):
            server.matched(skewed_loads(layers=layers))


def test_plans_with_experts_of_another_size_are_refused():
    server, loads = server_of(), skewed_loads(steps=2)
    server.check_sizes(plan_of("1 replica/gpu", loads).moe_layers)
    with pytest.raises(BadInput, match=r"layer layers.0 of the plan has experts of 999 bytes, .* config says 25165824"):
        server.check_sizes(plan_of("1 replica/gpu", loads, expert_bytes=999).moe_layers)


def test_the_workload_is_the_usual_one_by_default():
    assert ServingModel(model_of(), cluster_of()).workload == Workload()
    assert ServingModel(model_of(LATENT), cluster_of()) == ServingModel(model_of(), cluster_of())
