"""Changes between plans, in words."""

import json

from craftc.plans.diff import diff_plans
from craftc.report.diff_report import diff_document, diff_summary, diff_text
from tests.plans.sample_plans import plan_of, random_plan, toy_layers, toy_plan

NEW = plan_of([((1, 0, 2), (3, 2, 1)), ((2, 3, 0), (1, 2, 3))], toy_layers())


def test_gpus_that_change_and_every_move():
    text = diff_text(diff_plans(toy_plan(), NEW))
    assert "1 experts to receive on 1 of 2 GPUs, 1000 B in total" in text
    assert "GPU 1, layers.1, slot 1: expert 2 in place of expert 0 (1000 B)" in text
    assert [line.split() for line in text.splitlines() if line.startswith("GPU 0")] == [
        ["GPU", "0", "0", "0", "B", "0", "2"]
    ]


def test_no_change_is_said():
    assert diff_text(diff_plans(NEW, NEW)).endswith("no copy moves")


def test_long_lists_end_with_how_many_more():
    text = diff_text(diff_plans(random_plan(1, 8, 40, (48,) * 3, 0), random_plan(2, 8, 40, (48,) * 3, 0)))
    assert "more moves; --format json lists all" in text


def test_json_has_every_move():
    document = diff_document(diff_plans(toy_plan(), NEW))
    assert json.loads(json.dumps(document))["moves"] == [
        {"gpu": 1, "layer": "layers.1", "slot": 1, "expert": 2, "replaces": 0, "bytes": 1000}
    ]
    assert document["moved_bytes"] == 1000


def test_a_summary_is_short():
    assert len(diff_summary(diff_plans(toy_plan(), NEW)).splitlines()) == 1
