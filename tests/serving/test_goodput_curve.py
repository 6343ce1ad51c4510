"""The curve and the choice: what must hold of them on any server."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from craftc.errors import BadInput, Infeasible
from craftc.serving.goodput_curve import RULE, GoodputCurve, goodput_curve
from craftc.serving.workload import Workload
from craftc.topology import Topology
from tests.serving.small_server import LAYERS, TOPOLOGY, cluster_of, even_loads, server_of, skewed_loads

COUNTS = (0, 1, 2, 4)
LOADS = skewed_loads(1.0)


def curve_of(
    workload: Workload | None = None, planner: str = "craft", topology: Topology = TOPOLOGY, **figures: Any
) -> GoodputCurve:
    return goodput_curve(LOADS, topology, server_of(cluster_of(**figures), workload=workload), planner, COUNTS)


@pytest.fixture(scope="module")
def curve() -> GoodputCurve:
    return curve_of()


@pytest.fixture
def unconfirmed(monkeypatch):
    """Without event simulations, which take most of a curve's time."""
    monkeypatch.setattr("craftc.serving.goodput_curve.confirmed", lambda arm, limit_s: None)


def rates(curve: GoodputCurve) -> dict[int, float]:
    return {point.replicas_per_gpu: point.worth.goodput for point in curve.points}


def test_the_smallest_number_within_1_percent_of_the_best_is_chosen(curve):
    rate = rates(curve)
    assert list(rate) == list(COUNTS)
    within = [count for count in COUNTS if rate[count] >= 0.99 * max(rate.values())]
    assert curve.chosen == within[0] == curve.band[0]
    assert curve.band[1] == within[-1]
    assert curve.rule == RULE
    assert (curve.planner, curve.eplb.replicas_per_gpu) == ("craft", LAYERS)


def test_replicas_pay_on_these_loads_and_too_many_do_not(curve):
    rate = rates(curve)
    assert curve.chosen == 1
    assert rate[1] > 1.02 * rate[0] > 1.02 * rate[4]


def test_no_plan_is_worth_more_than_perfect_balance_at_no_memory(curve):
    assert curve.ceiling.goodput > max(*rates(curve).values(), curve.eplb.goodput)
    assert curve.ceiling.kv_bytes == curve.points[0].worth.kv_bytes


def test_the_chosen_number_its_neighbours_and_none_are_confirmed(curve):
    assert {point.replicas_per_gpu for point in curve.points if point.confirmation} == {0, 1, 2}
    assert all(abs(point.confirmation.against_closed_form) < 0.15 for point in curve.points if point.confirmation)
    assert curve.ttft_limit_s == pytest.approx(4 * curve.points[0].worth.ttft_s)


def test_every_replica_costs_cache(curve):
    left = [point.worth.kv_bytes for point in curve.points]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == len(left)


def test_parts_add_up_to_a_step(curve):
    for worth in (*(point.worth for point in curve.points), curve.eplb, curve.ceiling):
        parts = worth.parts
        assert parts.attention + parts.experts + parts.all_to_all == pytest.approx(parts.total)
        assert parts.total == pytest.approx(worth.itl_s)


@pytest.mark.usefixtures("unconfirmed")
def test_equal_loads_need_no_replicas():
    for work in (None, Workload(1024, 128, phase="prefill"), Workload(1024, 128, phase="decode")):
        curve = goodput_curve(even_loads(), TOPOLOGY, server_of(workload=work), "craft", COUNTS)
        assert curve.chosen == 0


def decode_curve(planner: str, batch: int, counts: tuple[int, ...]) -> GoodputCurve:
    """Decode with 4 experts on each of 8 GPUs."""
    work = Workload(64, 128, phase="decode", batch=batch)
    server = server_of(cluster_of(chip__hbm_gib=4, server__tensor_parallel=1), workload=work)
    return goodput_curve(skewed_loads(1.0, steps=2), Topology(8), server, planner, counts)


@pytest.mark.parametrize(("planner", "batch"), [("craft", 1), ("craft", 8), ("craftc", 8)])
def test_decode_of_few_tokens_per_gpu_needs_no_replicas(planner, batch):
    """SERVING.md, section 4: with 4 experts per GPU and up to about 16 tokens the fullest GPU's slots decide."""
    curve = decode_curve(planner, batch, (0, 1, 4))
    assert curve.chosen == 0
    assert rates(curve)[0] >= rates(curve)[4]


def test_decode_of_many_tokens_needs_some():
    assert decode_curve("craft", 256, COUNTS).chosen > 0


@pytest.mark.parametrize("phase", ["mixed", "decode"])
@pytest.mark.usefixtures("unconfirmed")
def test_more_memory_never_lowers_the_choice_or_goodput(phase):
    """By a few requests and more: a single one, which fits all at once, may move the choice by less than the band."""
    curves = [curve_of(Workload(1024, 128, phase=phase), chip__hbm_gib=size) for size in (0.6, 0.8, 1.0, 1.4, 2.0, 4.0)]
    chosen = [curve.chosen for curve in curves]
    assert chosen == sorted(chosen)
    best = [max(rates(curve).values()) for curve in curves]
    assert best == sorted(best)
    assert chosen[0] < chosen[-1]


@pytest.mark.usefixtures("unconfirmed")
def test_a_faster_network_never_lowers_goodput():
    curves = [curve_of(network__nic_gbit_per_s=speed) for speed in (25, 100, 400, 3200)]
    for slower, faster in pairwise(curves):
        assert all(rates(slower)[count] <= rates(faster)[count] for count in COUNTS)


@pytest.mark.usefixtures("unconfirmed")
def test_a_number_that_leaves_no_cache_is_a_row_of_0():
    curve = curve_of(chip__hbm_gib=0.58)
    last = curve.points[-1].worth
    assert (last.goodput, last.requests, last.binds) == (0, 0, "memory")
    assert rates(curve)[curve.chosen] > 0


def test_without_replicas_and_without_cache_nothing_can_be_chosen():
    with pytest.raises(Infeasible, match=r"even without replicas: .* GiB short per GPU; the fewest GPUs .* are"):
        curve_of(chip__hbm_gib=0.36, server__buffer_gib_per_rank=0.001)


@pytest.mark.usefixtures("unconfirmed")
def test_a_planner_that_cannot_do_without_replicas_has_a_curve_of_the_others():
    curve = curve_of(planner="eplb", topology=Topology(24, 3))
    assert [point.replicas_per_gpu for point in curve.points] == [3, 4]
    assert curve.chosen == 3
    assert curve.ceiling.replicas_per_gpu == 0


@pytest.mark.usefixtures("unconfirmed")
def test_where_a_limit_is_never_kept_all_rows_say_so():
    curve = curve_of(Workload(1024, 128, itl_limit_s=1e-6))
    assert {point.worth.binds for point in curve.points} == {"latency"}
    assert (curve.chosen, curve.ceiling.goodput) == (0, 0)


def test_a_limit_below_the_unloaded_time_is_named():
    with pytest.raises(BadInput, match=r"the limit of 0\.001 s on the time to the first token is below 0\.0"):
        curve_of(Workload(1024, 128, ttft_limit_s=0.001))


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (Topology(16), r"has 8 GPUs a node, but 16 GPUs on 1 nodes are 16 a node: give --nodes 2"),
        (Topology(4), r"over 8 GPUs \(cluster a100-80g-efa\) does not divide the 4 GPUs of a node"),
    ],
)
def test_gpus_that_are_not_the_clusters_are_refused(topology, message):
    with pytest.raises(BadInput, match=message):
        curve_of(topology=topology)


def test_loads_of_another_model_are_refused():
    with pytest.raises(BadInput, match="loads are of 16 experts"):
        goodput_curve(skewed_loads(experts=16), TOPOLOGY, server_of(), "craft", COUNTS)
    with pytest.raises(BadInput, match="loads are of 3 layers"):
        goodput_curve(LOADS, TOPOLOGY, server_of(), "craft", COUNTS, judge=skewed_loads(layers=3))


@pytest.mark.usefixtures("unconfirmed")
def test_other_loads_judge(curve):
    other = goodput_curve(LOADS, TOPOLOGY, server_of(), "craft", COUNTS, judge=skewed_loads(1.0, seed=3))
    assert other.judged.judged.steps == 8
    assert other.points[1].worth.mean_peak > curve.points[1].worth.mean_peak


@pytest.mark.usefixtures("unconfirmed")
def test_the_same_loads_give_the_same_figures(curve):
    again = curve_of()
    assert [point.worth for point in again.points] == [point.worth for point in curve.points]
    assert (again.ceiling, again.eplb) == (curve.ceiling, curve.eplb)


@pytest.mark.usefixtures("unconfirmed")
def test_progress_is_told():
    seen: list[str] = []
    goodput_curve(LOADS, TOPOLOGY, server_of(), "craft", (0,), on_pass=seen.append)
    assert seen[-1] == "simulate"
