"""Every placement format: what is written reads back as the plan, whatever the plan; bytes are the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Refused, VerificationFailed
from craftc.manifests.export import export_plan
from craftc.manifests.format import ExportSource, PlacementFormat, target_of_plan
from craftc.manifests.read_placement import read_placement
from craftc.manifests.registry import placement_format, placement_names
from craftc.models.moe_layer import MoELayer
from craftc.plans.replication_plan import PlanBudget, ReplicationPlan
from tests.plans.sample_plans import random_plan, toy_layers, toy_plan, uneven_plan

NAMES = [name for name in placement_names() if name != "onnx"]
UNIFORM = [name for name in NAMES if placement_format(name).slots == "uniform"]


@st.composite
def plans(draw: st.DrawFn, uniform: bool) -> ReplicationPlan:
    gpus = draw(st.integers(1, 6))
    experts = draw(st.integers(1, 9))
    layers = draw(st.integers(1, 4))
    if uniform:
        widths = st.integers(-(-experts // gpus), experts)
        slots = [draw(widths) * gpus] * layers
    else:
        slots = [draw(st.integers(experts, experts * gpus)) for _ in range(layers)]
    return random_plan(draw(st.integers(0, 999)), gpus, experts, slots, first_index=draw(st.integers(0, 3)))


def expected(plan: ReplicationPlan, fmt: PlacementFormat) -> list:
    order = tuple if fmt.keeps_slot_order else sorted
    return [tuple(tuple(order(gpu)) for gpu in layer.placement) for layer in plan.layers]


@settings(deadline=None, max_examples=30)
@given(plan=plans(uniform=True), name=st.sampled_from(NAMES))
def test_a_uniform_plan_reads_back_from_every_format(plan: ReplicationPlan, name: str) -> None:
    fmt = placement_format(name)
    source = ExportSource(plan, target_of_plan(plan, hidden_layers=plan.layers[-1].index + 2))
    data = fmt.encode(source)
    assert data == fmt.encode(source)
    assert list(fmt.decode(data, source.target)) == expected(plan, fmt)


@settings(deadline=None, max_examples=30)
@given(plan=plans(uniform=False), name=st.sampled_from(["omni", "csv"]))
def test_an_uneven_plan_reads_back_from_formats_with_counts_per_layer(plan: ReplicationPlan, name: str) -> None:
    fmt = placement_format(name)
    source = ExportSource(plan, target_of_plan(plan))
    assert list(fmt.decode(fmt.encode(source), source.target)) == expected(plan, fmt)


@pytest.mark.parametrize("name", NAMES)
def test_a_written_file_is_a_plan_again(name: str, tmp_path: Path) -> None:
    plan, path = toy_plan(), tmp_path / f"placement{placement_format(name).suffix or ''}"
    export = export_plan(plan, name, path)
    assert export.path == path
    found = read_placement(path, name, plan.topology, toy_layers())
    assert [layer.placement for layer in found.layers] == expected(plan, placement_format(name))
    assert [layer.index for layer in found.layers] == [1, 2]
    assert (found.estimate, found.provenance.planner, found.budget.spent_bytes) == (None, name, 4000)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", UNIFORM)
def test_a_uniform_server_refuses_a_plan_with_counts_per_layer(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"5 to 6 slots on 2 GPUs: plan with --uniform, or --pad it \(6 slots in every layer: 1 copy"
    ):
        export_plan(uneven_plan(), name, tmp_path / f"placement{placement_format(name).suffix or ''}")
    assert not list(tmp_path.iterdir())


def test_an_expert_count_per_layer_is_refused_by_a_uniform_server(tmp_path: Path) -> None:
    plan = toy_plan()
    odd = random_plan(1, gpus=2, experts=5, slots_per_layer=[6], first_index=3)
    mixed = ReplicationPlan(plan.topology, PlanBudget("", 9000, 5000), plan.layers + odd.layers, None, plan.provenance)
    with pytest.raises(Refused, match="layers have 4 to 5 experts"):
        export_plan(mixed, "sglang", tmp_path / "placement.json")
    assert export_plan(mixed, "csv", tmp_path / "placement.csv").format == "csv"


def test_a_writer_that_writes_something_else_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = placement_format("vllm-list")
    swapped = PlacementFormat(
        name="swapped",
        server="none",
        slots="uniform",
        suffix=None,
        keeps_slot_order=True,
        encode=lambda source: b"[[0,1,2,3,1,0],[2,3,0,1,2,3]]",
        decode=fmt.decode,
        flags=fmt.flags,
    )
    monkeypatch.setattr("craftc.manifests.export.placement_format", lambda name: swapped)
    with pytest.raises(VerificationFailed, match=r"layer layers\.1 reads back differently"):
        export_plan(toy_plan(), "swapped", tmp_path / "placement")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_layers_with_other_names_or_counts_are_not_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"placement{placement_format(name).suffix or ''}"
    export_plan(toy_plan(), name, path)
    five = tuple(MoELayer(layer.name, layer.index, 5, 1000) for layer in toy_layers())
    with pytest.raises(Exception, match=r"placement: .*(expert|shape)") as error:
        read_placement(path, name, toy_plan().topology, five)
    assert error.type.__name__ == "BadInput"


@pytest.mark.parametrize(("name", "suffix"), [("sglang", ".json"), ("vllm-ascend", ".json"), ("omni", ".npy")])
def test_servers_that_look_at_the_name_get_one_they_know(name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"give a name that ends in {suffix}"):
        export_plan(toy_plan(), name, tmp_path / "placement.txt")
