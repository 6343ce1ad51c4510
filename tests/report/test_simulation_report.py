"""What `craftc simulate` says, as text and as JSON values."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from craftc.report.simulated_arms import SimulatedArms, arms_of_curves, arms_of_plans
from craftc.report.simulation_document import simulation_document
from craftc.report.simulation_report import cluster_text, simulation_text
from craftc.serving.cluster import Figure
from craftc.serving.goodput_curve import RULE
from craftc.serving.plan_comparison import ComparedArm, PlanComparison
from craftc.serving.workload import Workload
from tests.report.small_curves import SPLIT, arms_of, curve_of, worth_of
from tests.serving.small_server import TOPOLOGY, cluster_of, server_of

GOODPUTS = {0: 2.0, 1: 2.98, 2: 3.0, 4: 2.5}
RUNS = {0: (1.9, -0.05), 1: (2.9, -0.03), 2: (2.4, -0.2)}


def text_of(arms: SimulatedArms, workload: Workload | None = None) -> str:
    return simulation_text(arms, server_of(workload=workload), TOPOLOGY)


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of the table by arm and replicas."""
    lines = text.split("\n\n")[1].splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("replicas: "))
    cells = [line.replace("eplb as published", "eplb").split() for line in lines[2:end]]
    return {f"{row[0]} {row[1]}": row[2:] for row in cells}


def test_a_row_per_number_of_replicas_the_chosen_one_and_the_band_marked():
    rows = rows_of(text_of(arms_of(GOODPUTS, RUNS)))
    assert list(rows) == ["craftc 0", "craftc 1", "craftc 2", "craftc 4", "eplb 4", "ceiling 0"]
    assert " ".join(rows["craftc 1"]) == "9.00 10.0% 12 0.500 2.00 2.98 1.49 1.49 1.25 50.0 network 2.90 2.50 <- chosen"
    assert rows["craftc 2"][-2:] == ["within", "1%"]
    assert rows["craftc 0"][-1] == "2.50"
    assert rows["ceiling 0"][6:8] == ["2.00", "2.00"]
    assert rows["eplb 4"][-2:] == ["-", "-"]


def test_the_choice_its_rule_and_the_conditions():
    text = text_of(arms_of(GOODPUTS, RUNS))
    assert f"chosen: craftc with 1 replica per GPU ({RULE}: 1, 2)" in text
    assert "within the limits on latency: 2.90 requests/s against 1.90 without replicas, 1.53x" in text
    assert "limits: mean TTFT at most 5.00 s (default: four times that without waiting or replicas)" in text
    assert "ITL not limited (default)" in text
    assert "deepseek_v3 with 4 MoE layers on 16 GPUs of 2 nodes, 2 data-parallel ranks" in text
    assert "steps of the loads: planned from 2, judged on 3 others" in text


def test_a_choice_at_the_end_of_what_was_tried_says_so():
    line = "4 is the largest number tried, and more may be better: try it with --replicas"
    assert line in text_of(arms_of({0: 2.0, 4: 3.0}))
    assert "largest number tried" not in text_of(arms_of({0: 2.0, 4: 2.0}))
    assert "largest number tried" not in text_of(arms_of({0: 2.0}))


def test_where_the_event_simulation_disagrees_a_line_says_so():
    text = text_of(arms_of(GOODPUTS, RUNS))
    assert "craftc with 2 replicas per GPU: the event simulation serves 20% less than the closed form says" in text
    assert text.count("the event simulation serves") == 1
    better = text_of(arms_of(GOODPUTS, {**RUNS, 2: (3.2, 0.07)}))
    assert "within the limits on latency craftc with 2 replicas per GPU serves 10% more than the chosen" in better
    broken = text_of(arms_of(GOODPUTS, {**RUNS, 2: (0.0, -1.0)}))
    assert "craftc with 2 replicas per GPU: not even an idle server keeps the limits on latency" in broken
    assert rows_of(broken)["craftc 2"][-4:-2] == ["0", "2.50"]


def test_stated_limits_are_not_called_defaults():
    text = text_of(arms_of(GOODPUTS), Workload(ttft_limit_s=5.0, itl_limit_s=0.2))
    assert "limits: mean TTFT at most 5.00 s; mean ITL at most 200 ms" in text


def test_a_row_without_memory_says_so_and_one_beyond_the_limit_too():
    curve = curve_of({0: 2.0, 2: 3.0, 4: 2.0, 8: 2.0})
    full = replace(curve.points[2], worth=worth_of(0.0, 4, kv_bytes=-(2.0**30), requests=0, binds="memory"))
    late = replace(curve.points[3], worth=worth_of(0.0, 8, binds="latency"))
    arms = arms_of_curves([replace(curve, points=(*curve.points[:2], full, late))], [0, 2, 4, 8])
    rows = rows_of(text_of(arms))
    assert rows["craftc 4"][:3] == ["-1.00", "110.0%", "0"]
    assert rows["craftc 4"][5:8] == ["-", "-", "-"]
    assert rows["craftc 4"][-3:] == ["no", "KV", "left"]
    assert rows["craftc 8"][-2:] == ["ITL", "limit"]


def test_columns_that_say_nothing_are_left_out():
    head = text_of(arms_of(GOODPUTS)).split("\n\n")[1].splitlines()[0]
    assert "SLO" not in head
    decode = curve_of(GOODPUTS)
    points = tuple(replace(point, worth=replace(point.worth, ttft_s=0.0)) for point in decode.points)
    flat = replace(decode.ceiling, ttft_s=0.0)
    arms = arms_of_curves([replace(decode, points=points, ceiling=flat, eplb=flat)], list(GOODPUTS))
    text = text_of(arms, Workload(phase="decode", batch=2))
    assert "TTFT" not in text
    assert "decode only, at most 2 in flight per GPU" in text


def test_numbers_of_replicas_that_come_to_the_same_are_one_row():
    curve = curve_of({0: 2.0, 1: 2.0, 2: 2.0, 4: 3.0}, planner="eplb")
    points = tuple(
        replace(point, worth=worth_of(2.0)) if point.replicas_per_gpu < 4 else point for point in curve.points
    )
    arms = arms_of_curves([replace(curve, points=points)], [0, 1, 2, 4, 9999])
    text = text_of(arms)
    assert "eplb places no replicas where 1, 2 are allowed" in text
    assert list(rows_of(text)) == ["eplb 0", "eplb 4", "ceiling 0"]  # eplb as published has 4 as well
    assert arms.left_out == ("planner eplb cannot place 9999 replicas per GPU here: left out",)


def test_a_planner_that_places_fewer_than_allowed_is_shown_with_both_numbers():
    curve = curve_of({0: 2.0, 4: 3.0})
    fewer = replace(curve.points[1], worth=worth_of(3.0, 2.5))
    text = text_of(arms_of_curves([replace(curve, points=(curve.points[0], fewer))], [0, 4]))
    assert "2.5 of 4" in text
    assert "chosen: craftc with 2.5 of 4 replicas per GPU" in text


def test_the_first_planner_decides():
    curves = [curve_of(GOODPUTS), curve_of({0: 2.0, 2: 3.5}, planner="craft")]
    arms = arms_of_curves(curves, list(GOODPUTS))
    assert arms.best.words == "craftc with 1 replica per GPU"
    assert [arm.words for arm in arms.rows if arm.in_band] == [arms.best.words, "craftc with 2 replicas per GPU"]
    assert len([arm for arm in arms.rows if arm.name == "craft"]) == 2
    assert len(arms.left_out) == 1


def test_a_planner_that_cannot_do_without_replicas_is_compared_with_placement_only():
    none = ComparedArm("none", worth_of(1.5), None)
    arms = arms_of_curves([curve_of({2: 3.0, 4: 2.5}, planner="eplb")], [2, 4], none)
    assert arms.none.worth == none.worth
    assert "craftc" not in text_of(arms)
    assert rows_of(text_of(arms))["eplb 2"][6] == "2.00"


def test_plans_have_no_rule_and_the_best_is_named():
    none, eplb = ComparedArm("none", worth_of(2.0), None), ComparedArm("eplb", worth_of(2.5, 4), None)
    plans = (ComparedArm("a.json", worth_of(3.0, 2), None), ComparedArm("b.json", worth_of(2.8, 1), None))
    arms = arms_of_plans(PlanComparison(TOPOLOGY, none, eplb, plans, worth_of(4.0), 5.0, SPLIT, ()))
    text = text_of(arms)
    assert text.splitlines()[0].endswith("a.json (2 replicas per GPU) reaches 1.50x.")
    assert list(rows_of(text)) == ["none 0", "a.json 2", "b.json 1", "eplb 4", "ceiling 0"]
    assert "chosen" not in text
    assert "baselines planned from 2" in text
    document = simulation_document(arms, server_of(), TOPOLOGY)
    assert document["best"] == {"arm": "a.json", "replicas_per_gpu": 2, "rule": None}
    assert "chosen" not in document


def test_every_constant_stands_with_its_source_and_marks():
    cluster = cluster_of().with_figure("server.sync", Figure(0.7, "calibrated from m.csv"))
    lines = cluster_text(cluster).splitlines()
    assert lines[0] == (
        f"cluster a100-80g-efa (NVIDIA A100-SXM4-80GB): {len(cluster.figures) + 1} constants, 4 assumed (!), "
        "1 calibrated (*)"
    )
    assert [line for line in lines if line.startswith("*")] == [
        "* server.sync                       0.7  calibrated from m.csv"
    ]
    text = " ".join(" ".join(lines).split())
    for path, figure in cluster.figures:
        assert f"{path} {figure.value:g} {figure.source}" in text
    assert f"network.wire_copies expert {cluster.network.wire_copies.source}" in text
    assert max(map(len, lines)) <= 118


def test_json_holds_all_of_it():
    server = server_of()
    document = json.loads(json.dumps(simulation_document(arms_of(GOODPUTS, RUNS), server, TOPOLOGY), allow_nan=False))
    assert document["chosen"] == {"arm": "craftc", "replicas_per_gpu": 1, "rule": RULE}
    first, second, *_ = document["arms"]
    assert (first["asked_replicas_per_gpu"], first["chosen"], second["chosen"]) == (0, False, True)
    assert first["parts"] == {"attention": 0.01, "experts": 0.02, "all_to_all": 0.03}
    assert second["event_simulation"]["goodput"] == 2.9
    assert second["kv_lost"] == pytest.approx(0.1)
    assert document["ceiling"]["against_eplb"] == 2.0
    assert document["cluster"]["fingerprint"] == f"sha256:{server.cluster.fingerprint}"
    assert document["cluster"]["constants"]["network.wire_copies"]["origin"] == "assumed"
    assert document["limits"] == {"ttft_s": 5.0, "ttft_is_default": True, "itl_s": None}
    assert document["workload"]["input"] == server.workload.input
    assert document["steps"]["planned_sha256"] == SPLIT.planned.sha256


def test_a_ratio_without_a_base_is_null():
    arms = arms_of({0: 0.0, 2: 1.5})
    document = simulation_document(arms, server_of(), TOPOLOGY)
    assert document["arms"][1]["against_none"] is None
