"""The quality table end to end on a tiny trace: protocol, entries, aims, chart; and the search it compares with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import cell, main, measure, quality_table, reach
from benchmarks.quality_traces import Aim, Trace, batched, known_traces, trace_of
from benchmarks.reference_search import reference_placement
from benchmarks.synthetic_trace import synthetic_counts
from craftc.errors import BadInput
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import gpu_loads, replay, step_balancedness
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology

TINY = Trace("tiny", synthetic_counts(steps=6, layers=3, experts=16, seed=1), Topology(4))


@pytest.fixture(scope="module")
def quality():
    return measure(TINY)


def test_plans_see_even_steps_only_and_are_judged_on_both_halves(quality):
    even_SLE, odd_SLE = TINY.counts_SLE[[0, 2, 4]], TINY.counts_SLE[[1, 3, 5]]
    problem = PlanningProblem(even_SLE, TINY.topology, (1, 1, 1), budget_bytes=4 * TINY.topology.gpus)
    planner = planner_for("craftc", problem)
    placements = planner.place(problem, planner.allocate(problem, planner.estimate(problem)).replicas_L)
    point = quality.entries["craftc"].points[4]
    assert point.held_out == pytest.approx(replay(odd_SLE, placements).mean())
    assert point.own_steps == pytest.approx(replay(even_SLE, placements).mean())


def test_other_odd_steps_change_no_plan(quality):
    counts_SLE = TINY.counts_SLE.copy()
    counts_SLE[1::2] = np.roll(counts_SLE[1::2], 3, axis=2)
    other = measure(replace(TINY, counts_SLE=counts_SLE))
    for name in ("contiguous", "EPLB", "CRAFT", "reference", "craftc"):
        before, after = quality.entries[name].points.values(), other.entries[name].points.values()
        assert [point.own_steps for point in after] == [point.own_steps for point in before]
        assert all(old.held_out != new.held_out for old, new in zip(before, after, strict=True))


def test_arms_share_one_budget_and_stay_below_the_bound(quality):
    assert list(quality.entries) == ["contiguous", "EPLB", "CRAFT", "reference", "craftc", "bound"]
    assert {point.replicas_per_gpu for point in quality.entries["contiguous"].points.values()} == {0}
    for name in ("CRAFT", "reference", "craftc"):
        for allowed, point in quality.entries[name].points.items():
            assert point.replicas_per_gpu <= allowed
    planned, bound = quality.entries["craftc"].points[8], quality.entries["bound"].points[8]
    assert planned.own_steps <= bound.own_steps
    assert planned.held_out <= bound.held_out


def test_aims_are_shown_met_and_missed(quality):
    measured = quality.entries["craftc"].points[8].held_out
    aimed = replace(quality, trace=replace(TINY, aims=(Aim(8, measured), Aim(8, measured + 0.02), Aim(8, 1.0, False))))
    assert reach(aimed, held_out=True).split(", ")[0].endswith("met")
    assert reach(aimed, held_out=True).endswith("missed by 0.020")
    held_out, own_steps = list(quality_table([aimed]))[2:]
    assert "tiny, 4 GPUs | held out" in held_out
    assert cell(quality.entries["craftc"].points[8], 8, True) in held_out
    assert "R=8 1.00" in own_steps


def test_command_prints_tables_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, chart = tmp_path / "recorded.npz", tmp_path / "chart.png"
    np.savez(path, counts=TINY.counts_SLE)
    main([str(path), "--gpus", "4", "--nodes", "2", "--evenly", "4", "--png", str(chart)])
    printed = capsys.readouterr()
    assert "recorded, 4 GPUs | held out |" in printed.out
    assert "recorded: 4 x 3 x 16, 4 GPUs" in printed.err
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_unusable_traces_end_in_one_line(tmp_path: Path):
    path = tmp_path / "short.npz"
    np.savez(path, counts=TINY.counts_SLE)
    for wrong in (["--sum-steps", "4"], ["--sum-steps", "0"], ["--evenly", "1"], ["--gpus", "0"]):
        with pytest.raises(SystemExit, match=r"at least"):
            main([str(path), *wrong])


def test_steps_are_summed_and_thinned_evenly():
    counts_SLE = np.arange(10)[:, None, None] * np.ones((10, 1, 1), dtype=np.int64)
    assert batched(counts_SLE, 2, 10**9).ravel().tolist() == [1, 5, 9, 13, 17]
    assert batched(counts_SLE, 3, 2).ravel().tolist() == [3, 21]
    with pytest.raises(BadInput, match="at least 2"):
        batched(counts_SLE, 10, 5)


def test_known_traces_are_those_present(tmp_path: Path):
    assert [trace.name for trace in known_traces(tmp_path)] == ["synthetic"]
    np.savez(tmp_path / "mixtral-8x7b-mmlu.npz", counts=TINY.counts_SLE)
    assert [trace.name for trace in known_traces(tmp_path)] == ["mixtral-8x7b-mmlu", "synthetic"]
    assert trace_of(tmp_path / "mixtral-8x7b-mmlu.npz", Topology(4), 1, 6).counts_SLE.shape == (6, 3, 16)


@pytest.mark.parametrize("replicas", [0, 1, 4, 7])
def test_reference_keeps_the_rules_and_improves_on_craft(replicas: int):
    problem = PlanningProblem(TINY.counts_SLE, TINY.topology, (1, 1, 1), budget_bytes=100)
    start_L = CraftPlanner().place(problem, (replicas,) * 3)
    found_L = [reference_placement(TINY.counts_SLE[:, layer], replicas, TINY.topology) for layer in range(3)]
    placed = [PlacedLayer(str(layer), 16, 1, replicas, found) for layer, found in enumerate(found_L)]
    assert violations(placed[:1], TINY.topology.gpus) == ()
    before_L, after_L = (
        [
            step_balancedness(gpu_loads(TINY.counts_SLE[:, layer], placement)).mean()
            for layer, placement in enumerate(placement_L)
        ]
        for placement_L in (start_L, found_L)
    )
    assert np.mean(after_L) > np.mean(before_L)
