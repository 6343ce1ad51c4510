import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import craftc
from craftc.errors import BadInput, Infeasible
from craftc.loads.load_profile import LoadProfile
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import ReplicationPlan
from craftc.topology import Topology
from tests.golden.model import build_model, calibration_inputs, example_inputs
from tests.places import ROOT
from tests.solvers.loads_in_phases import loads_in_phases

LOADS = LoadProfile.from_counts(np.arange(1, 65).reshape(2, 4, 8))


def test_plan_from_loads_alone():
    plan = craftc.plan(LOADS, Topology(4, 2), "2replicas/gpu", expert_bytes=100)
    assert isinstance(plan, ReplicationPlan)
    assert plan.budget.bytes == 800
    assert plan.budget.spent_bytes <= 800
    with pytest.raises(FrozenInstanceError):
        plan.layers = ()  # type: ignore[misc]


def test_plan_with_layers_of_different_sizes():
    layers = [MoELayer(f"layers.{index}", index, experts=8, expert_bytes=100 * (index + 1)) for index in range(4)]
    plan = craftc.plan(LOADS, Topology(4), "25%", layers=layers)
    assert plan.budget.bytes == 8 * (100 + 200 + 300 + 400) // 4
    assert [layer.expert_bytes for layer in plan.layers] == [100, 200, 300, 400]


def test_plan_refuses_what_cannot_be():
    with pytest.raises(BadInput, match="size of an expert is not known"):
        craftc.plan(LOADS, Topology(4), "25%")
    with pytest.raises(Infeasible, match="less than one replica"):
        craftc.plan(LOADS, Topology(4), "99B", expert_bytes=100)
    with pytest.raises(BadInput, match="has 4 layers, the model has 1"):
        craftc.plan(LOADS, Topology(4), "25%", layers=[MoELayer("a", 0, 8, 1)])


def test_inspect_and_profile():
    found = craftc.inspect(build_model(), example_inputs())
    assert [layer.name for layer in found.layers] == ["layers.0.experts", "layers.1.experts"]
    loads = craftc.profile(build_model(), example_inputs(), calibration_inputs, max_steps=2)
    assert loads.counts_SLE.shape == (2, 2, 8)
    assert loads.layer_names == ("layers.0.experts", "layers.1.experts")


def test_each_phase_has_its_plan():
    names = tuple(f"{('prefill', 'decode')[step % 2]}_{step}" for step in range(16))
    loads = craftc.LoadProfile.from_counts(loads_in_phases((0, 1) * 8), step_names=names)
    prefill, decode = craftc.plan_per_phase(loads, Topology(4), "1replica/gpu", expert_bytes=64)
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert decode.steps == tuple(range(1, 16, 2))
    own = craftc.plan(loads.select_steps(decode.steps), Topology(4), "1replica/gpu", expert_bytes=64)
    assert decode.plan == own
    with pytest.raises(craftc.BadInput, match="no phases in 8 steps"):
        craftc.plan_per_phase(loads.select_steps(decode.steps), Topology(4), "1replica/gpu", expert_bytes=64)


def test_optimize_computes_the_same_and_leaves_the_model_alone():
    model = build_model()
    before = {name: (id(parameter), parameter._version) for name, parameter in model.named_parameters()}
    seen: list[str] = []
    done = craftc.optimize(
        model, example_inputs(), Topology(4, 2), "25%", calibration_inputs=calibration_inputs, on_pass=seen.append
    )
    assert {name: (id(parameter), parameter._version) for name, parameter in model.named_parameters()} == before
    assert seen == [timing.name for timing in done.timings]
    assert seen[0] == "trace"
    assert seen[-1] == "verify_rewrite"
    assert done.plan.provenance.loads == f"sha256:{done.loads.sha256}"
    inputs = {"x": torch.arange(3 * 5 * 8).reshape(3, 5, 8) % 7.0}
    assert torch.allclose(done.model(**inputs), model(**inputs), atol=1e-5)


def test_given_loads_are_not_measured_again():
    loads = craftc.profile(build_model(), example_inputs(), list(calibration_inputs()))
    done = craftc.optimize(build_model(), example_inputs(), Topology(2), "25%", loads=loads)
    assert done.loads is loads
    assert "profile_loads" not in [timing.name for timing in done.timings]


def test_a_stream_that_runs_only_once_is_refused():
    def batches() -> Iterator[dict[str, Any]]:
        yield example_inputs()

    with pytest.raises(BadInput, match="runs only once"):
        craftc.profile(build_model(), example_inputs(), batches())


def test_planning_imports_no_torch_and_importing_craftc_next_to_nothing():
    script = """
import sys, craftc
assert not {"numpy", "torch", "pydantic"} & set(sys.modules)
from craftc.plans.replication_plan import ReplicationPlan
import craftc.plans.file, numpy
loads = craftc.LoadProfile.from_counts(numpy.arange(1, 65).reshape(2, 4, 8))
plan = craftc.plan(loads, craftc.Topology(4), "1replica/gpu", expert_bytes=1)
assert isinstance(plan, ReplicationPlan)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_public_names_exist_under_their_own_names_and_others_do_not():
    assert set(craftc._MODULE_OF) == set(craftc.__all__) - {"__version__"}
    for name, module in craftc._MODULE_OF.items():
        found = getattr(craftc, name)
        assert (found.__name__, found.__module__) == (name, module)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        craftc.nonsense  # noqa: B018


def test_dir_lists_the_public_names_and_nothing_else():
    assert dir(craftc) == sorted(craftc.__all__)


def test_a_function_is_no_module():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'craftc\.plan'"):
        import_module("craftc.plan")
    assert inspect.isfunction(craftc.plan)
