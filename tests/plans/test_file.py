import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.plans.file import parse_plan, plan_bytes, plan_document, plan_schema, read_plan, write_plan
from craftc.plans.replication_plan import (
    CrossValidation,
    Estimate,
    LayerEstimate,
    LayerPlan,
    PlanBudget,
    PlannerEstimate,
    Provenance,
    ReplicationPlan,
)
from craftc.solvers.problem import Placement
from craftc.topology import Topology
from tests.places import ROOT

SCHEMA_FILE = ROOT / "craftc" / "plans" / "plan.schema.json"


def make_plan() -> ReplicationPlan:
    """Two layers of four experts on two GPUs; the first has two replicas with shares of their own."""
    layers = (
        LayerPlan("a.experts", 1, 4, 2, 100, 2, ((0, 1, 2), (3, 0, 1)), ((0.25, 0.5, 1.0), (1.0, 0.75, 0.5))),
        LayerPlan("b.experts", 3, 4, None, 100, 0, ((0, 1), (2, 3))),
    )
    estimate = Estimate(
        0.9,
        0.95,
        0.91,
        (PlannerEstimate("contiguous", 0.5, 0.0, 0.0, step_time=2.5),),
        (LayerEstimate(0.5, 0.6, 0.9, 1.0),) * 2,
        CrossValidation(2, 0.9, 0.8, 0.6, 0.5),
    )
    provenance = Provenance("0.1.0", "sha256:00", None, "craft", "HiGHS 1.16", "optimal", 0.0)
    return ReplicationPlan(Topology(2, 1), PlanBudget("250B", 250, 200), layers, estimate, provenance)


def test_what_is_written_is_read_back_and_fits_the_schema(tmp_path: Path):
    path = tmp_path / "plan.json"
    write_plan(make_plan(), path)
    assert read_plan(path) == make_plan()
    jsonschema.validate(json.loads(path.read_text()), json.loads(SCHEMA_FILE.read_text()))


def test_a_layer_is_a_line():
    text = plan_bytes(make_plan()).decode()
    assert '{"name": "b.experts", "index": 3, "experts": 4, "top_k": null, "expert_bytes": 100, "replicas": 0,' in text
    assert json.loads(text) == plan_document(make_plan())


def test_shares_are_left_out_where_copies_share_evenly():
    first, second = plan_document(make_plan())["layers"]
    assert first["shares"] == [[0.25, 0.5, 1.0], [1.0, 0.75, 0.5]]
    assert "shares" not in second


def test_the_committed_schema_is_current():
    message = "renew it: python -m craftc.plans.file > craftc/plans/plan.schema.json"
    assert json.loads(SCHEMA_FILE.read_text()) == plan_schema(), message


def test_every_field_is_described_in_the_schema():
    for name, definition in plan_schema()["$defs"].items():
        for field, schema in definition["properties"].items():
            assert schema.get("description") or "$ref" in schema or name == "Topology", f"{name}.{field}"


def spread(experts: int, gpus: int, first: int) -> Placement:
    return tuple(tuple(expert for expert in range(experts) if (first + expert) % gpus == gpu) for gpu in range(gpus))


@settings(deadline=None, max_examples=30)
@given(
    gpus=st.integers(1, 5),
    experts=st.integers(1, 9),
    names=st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True),
    number=st.floats(0, 1),
    optional=st.none() | st.floats(0, 1),
)
def test_round_trip(gpus: int, experts: int, names: list[str], number: float, optional: float | None):
    # Layers start where the one before ended, so that GPUs hold equally much.
    layers = tuple(
        LayerPlan(name, ordinal, experts, 1, 7, 0, spread(experts, gpus, first=ordinal * experts))
        for ordinal, name in enumerate(names)
    )
    plan = replace(
        make_plan(),
        topology=Topology(gpus, gpus),
        budget=PlanBudget(names[0], 0, 0),
        layers=layers,
        estimate=None if optional is None else Estimate(number, optional, number, (), ()),
        provenance=replace(make_plan().provenance, gap=optional, model=names[0] or None),
    )
    assert parse_plan(plan_bytes(plan)) == plan
    assert plan_bytes(parse_plan(plan_bytes(plan))) == plan_bytes(plan)


def changed(*path: Any, to: Any) -> bytes:
    document = plan_document(make_plan())
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(document).encode()


def without(*path: Any) -> bytes:
    document = plan_document(make_plan())
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(document).encode()


BAD_FILES = {
    "empty": (b"", "not a plan: not JSON"),
    "truncated": (plan_bytes(make_plan())[:-9], "not a plan: not JSON"),
    "bytes": (b"\xff\xfe\x00", "not a text file"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "a list": (b"[]", 'expected "format"'),
    "no format": (without("format"), 'expected "format": "craftc.plan/1"'),
    "other format": (changed("format", to="vllm/1"), 'expected "format"'),
    "newer": (changed("format", to="craftc.plan/2"), r"craftc\.plan/2 is not known: this craftc reads craftc\.plan/1"),
    "unknown key": (changed("colour", to=1), "colour: unknown key"),
    "unknown layer key": (changed("layers", 1, "colour", to=1), r"layers\.1\.colour: unknown key"),
    "unknown topology key": (changed("topology", "racks", to=1), "racks: unknown key"),
    "key given twice": (b'{"format": "craftc.plan/1", "format": "craftc.plan/1"}', "'format' is given 2 times"),
    "missing": (without("layers", 0, "placement"), r"layers\.0\.placement: is missing"),
    "wrong type": (changed("layers", 0, "experts", to="4"), r"layers\.0\.experts: .*integer"),
    "boolean": (changed("layers", 0, "replicas", to=True), r"layers\.0\.replicas: .*integer"),
    "fraction": (changed("budget", "bytes", to=1.5), r"budget\.bytes: .*integer"),
    "not finite": (changed("estimate", "bound", to=float("nan")), "NaN is not a number"),
    "topology": (changed("topology", "gpus", to=0), "gpus must be at least 1"),
    "nodes": (changed("topology", "nodes", to=3), "2 GPUs cannot be spread evenly over 3 nodes"),
    "no layers": (changed("layers", to=[]), "has no layers"),
    "more experts than slots": (changed("layers", 1, "experts", to=10**15), "1000000000000000 experts in 4 slots"),
    "no bytes": (changed("layers", 1, "expert_bytes", to=0), "expert_bytes must be at least 1"),
    "top-k": (changed("layers", 1, "top_k", to=5), r"top_k must be in 1\.\.4"),
    "expert missing": (changed("layers", 1, "placement", to=[[0, 1], [2, 2]]), "expert 3 has no copy"),
    "GPU missing": (changed("layers", 1, "placement", to=[[0, 1, 2, 3]]), "placed on 1 GPUs"),
    "negative expert": (changed("layers", 1, "placement", to=[[0, 1], [2, -1]]), "expert -1 is not in"),
    "replicas": (changed("layers", 1, "replicas", to=1), "1 replicas stated, 0 placed"),
    "spent": (changed("budget", "spent_bytes", to=100), "100 bytes stated as spent"),
    "overspent": (changed("budget", "bytes", to=199), "1 too many"),
    "shares": (changed("layers", 0, "shares", 0, 0, to=0.5), "shares of expert 0 sum to"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, case: str):
    data, message = BAD_FILES[case]
    path = tmp_path / "plan.json"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=message) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path):
    with pytest.raises(BadInput, match=r"cannot read plan .*none\.json: No such file"):
        read_plan(tmp_path / "none.json")


def test_groups_are_left_out_where_there_are_none():
    plan = make_plan()
    assert "groups" not in plan_document(plan)
    grouped = replace(plan, groups=4)
    assert plan_document(grouped)["groups"] == 4
    assert parse_plan(plan_bytes(grouped)) == grouped


def test_plans_of_before_cross_validation_are_still_read():
    plan = parse_plan(without("estimate", "cross_validation"))
    assert plan.estimate is not None
    assert plan.estimate.cross_validation is None
    assert "curves" not in plan_document(plan)["provenance"]


def test_plans_of_before_step_time_are_still_read():
    data = without("estimate", "planners", 0, "step_time")
    plan = parse_plan(data)
    assert plan.estimate is not None
    assert plan.estimate.planners[0].step_time is None
    assert plan.provenance.tokens_per_slot == 0
    assert json.loads(plan_bytes(plan)) == json.loads(data)
    assert "step_time" not in plan_document(plan)["estimate"]["planners"][0]


def test_tokens_per_slot_are_left_out_where_only_tokens_count():
    plan = make_plan()
    assert "tokens_per_slot" not in plan_document(plan)["provenance"]
    slow = replace(plan, provenance=replace(plan.provenance, objective="step-time", tokens_per_slot=2.5))
    assert plan_document(slow)["provenance"]["tokens_per_slot"] == 2.5
    assert parse_plan(plan_bytes(slow)) == slow


@settings(deadline=None, max_examples=30)
@given(st.none() | st.floats(1, 1e6), st.none() | st.floats(0, 1), st.floats(0, 1e9))
def test_both_measures_are_written_and_read_back(step_time: float | None, worst: float | None, slot: float):
    plan = make_plan()
    assert plan.estimate is not None
    row = replace(plan.estimate.planners[0], step_time=step_time, objective=worst)
    made_by = replace(plan.provenance, objective="worst-workload", tokens_per_slot=slot)
    plan = replace(plan, estimate=replace(plan.estimate, planners=(row,)), provenance=made_by)
    assert parse_plan(plan_bytes(plan)) == plan
    jsonschema.validate(plan_document(plan), json.loads(SCHEMA_FILE.read_text()))
