"""SGLang's own loader reads what we write: `make test-servers` installs its wheel without dependencies, then runs this.

Only the expert-location code of the wheel runs; what it asks of the rest of the server is stubbed.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from craftc.manifests.export import export_plan
from craftc.plans.replication_plan import ReplicationPlan
from tests.plans.sample_plans import random_plan, toy_plan

FOLDER = os.environ.get("CRAFTC_SERVERS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs SGLang's wheel: run make test-servers")


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`sglang.srt.eplb.expert_location` of the wheel, with the rest of the package stubbed."""
    root = Path(str(FOLDER)) / "sglang"
    for name, path in {"sglang": root, "sglang.srt": root / "srt", "sglang.srt.elastic_ep": root / "none"}.items():
        package = ModuleType(name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, package)
    context, loader, elastic = (
        ModuleType(f"sglang.srt.{name}") for name in ("runtime_context", "model_loader", "elastic_ep.elastic_ep")
    )
    vars(elastic)["elastic_expanded_world_enabled"] = lambda: False
    vars(context).update(get_device=lambda: SimpleNamespace(device="cpu"), get_resources=SimpleNamespace)
    vars(context).update(get_exec=SimpleNamespace, get_parallel=SimpleNamespace)  # `load` sets the real stand-ins
    vars(loader)["get_model_architecture"] = None
    for module in (context, loader, elastic):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [name for name in sys.modules if name.startswith("sglang.srt.eplb")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("sglang.srt.eplb.expert_location")


def load(sglang: ModuleType, path: Path, plan: ReplicationPlan, hidden_layers: int, redundant: int, algorithm: str):
    """What the server makes of the file, under the flags that we print."""
    moe = SimpleNamespace(
        init_expert_location=str(path),
        ep_num_redundant_experts=redundant,
        ep_dispatch_algorithm=algorithm,
        moe_a2a_backend="none",
        ep_join_mode=None,
    )
    gpus = plan.topology.gpus
    parallel = SimpleNamespace(ep_size=gpus, nnodes=1, tp_size=gpus, elastic_ep_initial_size=None)
    described = sglang.ModelConfigForExpertLocation(hidden_layers, plan.layers[0].experts)
    model = SimpleNamespace(get_model_config_for_expert_location=lambda config: described)
    vars(sglang).update(get_exec=lambda: SimpleNamespace(moe=moe), get_parallel=lambda: parallel)
    vars(sys.modules["sglang.srt.model_loader"])["get_model_architecture"] = lambda config: (model, "")
    return sglang.compute_initial_expert_location_metadata(SimpleNamespace(hf_config=None), moe_ep_rank=0)


PLANS = {
    "toy": (toy_plan(), 3),
    "dense layers on both sides": (random_plan(1, gpus=4, experts=16, slots_per_layer=[24] * 5, first_index=3), 10),
    "one copy everywhere": (random_plan(2, gpus=3, experts=5, slots_per_layer=[15] * 2, first_index=0), 2),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("algorithm", ["dynamic", "static"])
def test_the_server_loads_the_plan(sglang: ModuleType, name: str, algorithm: str, tmp_path: Path) -> None:
    plan, hidden_layers = PLANS[name]
    path = tmp_path / "placement.json"
    export = export_plan(plan, "sglang", path, hidden_layers=hidden_layers)
    flags = dict(flag.split(" ", 1) for flag in export.flags)
    redundant = int(flags["--ep-num-redundant-experts"])
    assert flags["--ep-dispatch-algorithm"] == "dynamic"
    metadata = load(sglang, path, plan, hidden_layers, redundant, algorithm)
    assert (metadata.ep_size, metadata.num_layers) == (plan.topology.gpus, hidden_layers)
    width = metadata.num_local_physical_experts
    for layer in plan.layers:
        row = metadata.physical_to_logical_map[layer.index].tolist()
        assert (
            tuple(tuple(row[gpu * width : (gpu + 1) * width]) for gpu in range(plan.topology.gpus)) == layer.placement
        )
        assert tuple(metadata.logical_to_all_physical_map_num_valid[layer.index].tolist()) == layer.copies_E
    for row in metadata.physical_to_logical_map.tolist():
        assert set(row) == set(range(plan.layers[0].experts))


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ('{"physical_to_logical_map": [[0,1,2,3,0,1],[0,1,2,3,0,1],[2,3,0,1,2,3]], "version": 1}', TypeError),
        ('{"physical_to_logical_map": [[0,1,2,3,0,1],[0,1,2,3,0,1],[2,3,0,1]]}', ValueError),
    ],
)
def test_what_our_reader_refuses_the_server_refuses_too(
    sglang: ModuleType, document: str, error: type[Exception], tmp_path: Path
) -> None:
    path = tmp_path / "placement.json"
    path.write_text(document)
    with pytest.raises(error):
        load(sglang, path, toy_plan(), 3, 2, "dynamic")


def test_minus_one_would_have_become_the_last_expert(sglang: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    path.write_text('{"physical_to_logical_map": [[0,1,2,3,0,1],[0,1,2,3,0,-1],[2,3,0,1,2,3]]}')
    metadata = load(sglang, path, toy_plan(), 3, 2, "dynamic")
    assert metadata.logical_to_all_physical_map_num_valid[1, 3] == 2
    assert isinstance(metadata.physical_to_logical_map, torch.Tensor)
