import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from craftc.deployment.weights import METADATA_KEY, SHARED, gpu_file, plan_fingerprint, write_weights
from craftc.errors import BadInput
from craftc.plans.replication_plan import LayerPlan, PlanBudget, Provenance, ReplicationPlan
from craftc.solvers.problem import Placement
from craftc.topology import Topology
from tests.places import ROOT

PLACEMENT: Placement = ((0, 2), (1, 0), (2,))
EXPERTS = 3


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.up = nn.Parameter(torch.randn(EXPERTS, 4, 2))
        self.bias = nn.Parameter(torch.randn(EXPERTS, 4).bfloat16())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.fused = nn.ModuleDict({"experts": Fused()})
        self.listed = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 4) for _ in range(EXPERTS))})
        self.head = nn.Linear(2, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("frequencies", torch.arange(3.0), persistent=False)


def make_plan(*names: str) -> ReplicationPlan:
    layers = tuple(LayerPlan(name, ordinal, EXPERTS, None, 48, 2, PLACEMENT) for ordinal, name in enumerate(names))
    provenance = Provenance("0", "sha256:0", None, "craft", "none", "heuristic", None)
    return ReplicationPlan(Topology(3), PlanBudget("x", 999, 96 * len(names)), layers, None, provenance)


PLAN = make_plan("fused.experts", "listed.experts")


def test_every_gpu_gets_its_copies_in_slot_order_and_nothing_else(tmp_path: Path):
    model = Model()
    names = write_weights(model, PLAN, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    fused = model.get_submodule("fused.experts")
    assert isinstance(fused, Fused)
    for gpu, held in enumerate(PLACEMENT):
        read = load_file(tmp_path / gpu_file(gpu))
        assert set(read) == {
            "fused.experts.up",
            "fused.experts.bias",
            "listed.experts.weight",
            "listed.experts.bias",
        }
        assert torch.equal(read["fused.experts.up"], fused.up[list(held)])
        assert torch.equal(read["fused.experts.bias"], fused.bias[list(held)])
        listed = [model.get_parameter(f"listed.experts.{expert}.weight") for expert in held]
        assert torch.equal(read["listed.experts.weight"], torch.stack(tuple(listed)))


def test_everything_else_is_in_one_file_tied_weights_once(tmp_path: Path):
    model = Model()
    write_weights(model, PLAN, tmp_path)
    read = load_file(tmp_path / SHARED)
    assert set(read) == {"embedding.weight", "frequencies"}
    assert torch.equal(read["frequencies"], torch.arange(3.0))
    with safe_open(tmp_path / SHARED, framework="pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
    assert metadata == {"plan": plan_fingerprint(PLAN), "tied": {"head.weight": "embedding.weight"}}


def test_every_file_names_its_plan(tmp_path: Path):
    write_weights(Model(), PLAN, tmp_path)
    with safe_open(tmp_path / gpu_file(1), framework="pt") as file:
        assert json.loads(file.metadata()[METADATA_KEY]) == {"plan": plan_fingerprint(PLAN), "gpu": 1}
    assert plan_fingerprint(PLAN) != plan_fingerprint(make_plan("fused.experts"))


def test_a_gpu_without_slots_in_a_layer_has_no_tensors_of_it(tmp_path: Path):
    layer = LayerPlan("fused.experts", 0, EXPERTS, None, 48, 0, ((0, 1, 2), ()))
    plan = ReplicationPlan(Topology(2), PLAN.budget, (layer,), None, PLAN.provenance)
    write_weights(Model(), plan, tmp_path)
    assert load_file(tmp_path / gpu_file(1)) == {}


def test_a_model_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"the model has no weights to write: embedding\.weight is on the meta device"):
        write_weights(Model().to("meta"), PLAN, tmp_path)
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from torch import nn
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.topology import Topology
from craftc.deployment.weights import write_weights
from tests.deployment.test_weights import PLAN

class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_experts = 16
        self.up = nn.Parameter(torch.ones(16, 512, 4096))
model = nn.ModuleDict({"experts": Big()})
layer = LayerPlan("experts", 0, 16, None, 1, 0, (tuple(range(16)),))
plan = ReplicationPlan(Topology(1), PLAN.budget, (layer,), None, PLAN.provenance)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_weights(model, plan, Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_never_holds_the_model_twice(tmp_path: Path):
    """128 MiB of experts on one GPU: writing them takes less than a quarter of that on top."""
    out = subprocess.check_output([sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, timeout=120, text=True)
    extra_kib = int(out)
    assert (tmp_path / gpu_file(0)).stat().st_size > 128 * 2**20
    assert extra_kib < 32 * 1024
