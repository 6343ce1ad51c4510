"""Steps that route differently are found, by name and by load, and what a plan for each gains is judged unseen."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.solvers.phases import Phase, PhaseGain, find_phases, phase_gain
from craftc.solvers.planners.registry import planner_named
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay
from craftc.topology import Topology
from tests.places import TRACES
from tests.solvers.loads_in_phases import loads_in_phases, loads_of_topics
from tests.solvers.loads_that_drift import drifting_loads, steady_loads

HALVES = (0,) * 8 + (1,) * 8
IN_TURN = (0, 1) * 8


def names_and_sizes(phases):
    return [(phase.name, len(phase.steps)) for phase in phases]


def problem_of(counts_SLE, gpus=8, replicas_per_gpu=4):
    layers = counts_SLE.shape[1]
    return PlanningProblem(counts_SLE, Topology(gpus), (100,) * layers, replicas_per_gpu * gpus * 100)


@pytest.mark.parametrize("phase_S", [HALVES, IN_TURN, (0,) * 4 + (1,) * 30], ids=["halves", "in turn", "unequal"])
def test_two_phases_are_found_by_their_loads(phase_S):
    phases = find_phases(loads_in_phases(phase_S))
    assert phases == tuple(
        Phase(f"phase-{number + 1}", tuple(np.flatnonzero(np.array(phase_S) == number).tolist())) for number in (0, 1)
    )


def test_three_phases_are_found():
    phases = find_phases(loads_in_phases((2, 0, 1, 1, 0) * 6))
    assert names_and_sizes(phases) == [("phase-1", 6), ("phase-2", 12), ("phase-3", 12)]
    assert phases[0].steps == tuple(range(0, 30, 5)), "numbered as they come"


@pytest.mark.parametrize("steps", [16, 300])
@pytest.mark.parametrize("seed", range(3))
def test_one_cloud_has_no_phases(steps: int, seed: int):
    assert find_phases(steady_loads(steps=steps, seed=seed)) == ()
    assert find_phases(drifting_loads(steps=steps, seed=seed)) == ()
    assert find_phases(loads_of_topics(steps=steps, seed=seed)) == ()


def test_steps_that_are_all_the_same_have_no_phases():
    assert find_phases(np.full((16, 2, 8), 7)) == ()
    assert find_phases(np.zeros((16, 2, 8), dtype=int)) == ()
    assert len(find_phases(np.repeat(loads_in_phases((0, 1)), 6, axis=0))) == 2


def test_too_few_steps_to_judge():
    assert find_phases(loads_in_phases((0, 1) * 3)) == ()
    assert find_phases(loads_in_phases((0,) * 7 + (1,))) == ()
    assert find_phases(loads_in_phases((0, 1) * 3), ("prefill", "decode") * 3) == ()


def test_a_few_steps_unlike_all_others_join_the_nearest_phase():
    counts_SLE = loads_in_phases((*IN_TURN, 2, 2))
    phases = find_phases(counts_SLE)
    assert len(phases) == 2
    assert {16, 17} <= {step for phase in phases for step in phase.steps}
    assert set(phases[0].steps) >= set(range(0, 16, 2))


def test_thousands_of_steps_in_turn():
    phase_S = np.arange(2000) % 2
    phases = find_phases(loads_in_phases(phase_S))
    assert [phase.steps for phase in phases] == [tuple(range(0, 2000, 2)), tuple(range(1, 2000, 2))]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["prefill", "decode"], ["prefill", "decode"]),
        (["prefill_{}", "decode_{}"], ["prefill", "decode"]),
        (["decode/{}", "pre fill: {}"], ["decode", "pre-fill"]),
        (["run/prefill-{}", "run/decode-{}"], ["run-prefill", "run-decode"]),
        (["a/b{}", "a-b{}"], ["phase-1", "phase-2"]),
        (["{}", "_{}"], None),
        (["same_{}", "same_{}"], None),
    ],
)
def test_names_group_steps_whatever_their_loads(names: list[str], found: list[str] | None):
    step_names = [names[step % 2].format(step) for step in range(16)]
    phases = find_phases(steady_loads(steps=16), step_names)
    assert [phase.name for phase in phases] == (found or [])
    if found:
        assert phases[0].steps == tuple(range(0, 16, 2))


def test_rare_names_join_the_nearest_phase():
    counts_SLE = loads_in_phases((1, *IN_TURN))
    phases = find_phases(counts_SLE, ["warm-up", *("prefill", "decode") * 8])
    assert names_and_sizes(phases) == [("decode", 9), ("prefill", 8)]
    assert 0 in phases[0].steps


def test_names_of_single_steps_and_of_many_workloads_do_not_group():
    counts_SLE = loads_in_phases(IN_TURN)
    assert names_and_sizes(find_phases(counts_SLE, [f"domain {'abcdefghijklmnop'[n]}" for n in range(16)])) == [
        ("phase-1", 8),
        ("phase-2", 8),
    ]
    assert find_phases(steady_loads(steps=40), [f"workload-{'abcdefgh'[n % 8]}" for n in range(40)]) == ()


def test_phases_found_by_load_are_called_what_their_steps_are_called_in_common():
    step_names = [f"{('prefill', 'decode')[n % 2]}-{'abcdefghijklmnop'[n]}" for n in range(16)]
    assert [phase.name for phase in find_phases(loads_in_phases(IN_TURN), step_names)] == ["prefill", "decode"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.lists(st.sampled_from(["prefill_{}", "decode_{}", "warm-up", "x{}y", "{}"]), min_size=40, max_size=40),
    st.booleans(),
    st.integers(0, 99),
)
def test_phases_have_every_step_once(phase_S, names, named: bool, seed: int):
    counts_SLE = loads_in_phases(phase_S, layers=2, experts=8, seed=seed, tokens=(3, 1, 0.1))
    step_names = [name.format(number) for number, name in enumerate(names[: len(phase_S)])] if named else ()
    phases = find_phases(counts_SLE, step_names)
    if phases:
        assert sorted(step for phase in phases for step in phase.steps) == list(range(len(phase_S)))
        assert all(list(phase.steps) == sorted(phase.steps) and len(phase.steps) >= 4 for phase in phases)
        assert len({phase.name for phase in phases}) == len(phases) >= 2
        assert [phase.steps[0] for phase in phases] == sorted(phase.steps[0] for phase in phases)
        assert all("/" not in phase.name and phase.name.strip(". ") == phase.name for phase in phases)


@pytest.mark.parametrize("name", ["craftc", "craft", "eplb"])
def test_a_plan_for_each_phase_gains_where_they_differ(name: str):
    counts_SLE = loads_in_phases(IN_TURN, layers=8, seed=1)
    found = phase_gain(problem_of(counts_SLE, replicas_per_gpu=1), planner_named(name), find_phases(counts_SLE))
    assert found.pays
    assert min(found.gain_P) > 0
    assert found.gain == pytest.approx(np.mean(found.own_P) - np.mean(found.joint_P))


def test_it_gains_nothing_where_names_differ_and_loads_do_not():
    counts_SLE = steady_loads(steps=16)
    phases = find_phases(counts_SLE, ("prefill", "decode") * 8)
    found = phase_gain(problem_of(counts_SLE), planner_named("craftc"), phases)
    assert found.phases == phases
    assert not found.pays
    assert found.gain < 0.01, "half of the steps each, and nothing to win"


def test_both_plans_are_judged_on_steps_they_were_not_made_from():
    """A phase planned from its even steps is judged on its odd ones, and the other way round."""
    counts_SLE = loads_in_phases(HALVES)
    problem, planner = problem_of(counts_SLE), planner_named("craft")
    found = phase_gain(problem, planner, find_phases(counts_SLE))
    own = []
    for parity in (0, 1):
        seen, unseen = counts_SLE[parity:8:2], counts_SLE[1 - parity : 8 : 2]
        part = replace(problem, counts_SLE=seen)
        placements = planner.place(part, planner.allocate(part, planner.estimate(part)).replicas_L)
        own.append(replay(unseen, placements).mean())
    assert found.own_P[0] == pytest.approx(np.mean(own))


def test_gains_are_measured_on_some_layers_and_steps_with_their_part_of_the_budget():
    class Watched(type(planner_named("craft"))):  # type: ignore[misc]
        def estimate(self, problem):
            seen.append(problem)
            return super().estimate(problem)

    seen: list[PlanningProblem] = []
    counts_SLE = loads_in_phases(np.arange(400) % 2, layers=16, experts=16)
    problem = replace(problem_of(counts_SLE), objective="step-time", tokens_per_slot=3.0)
    phase_gain(problem, Watched(), find_phases(counts_SLE))
    assert [len(each.counts_SLE) for each in seen] == [64, 32, 32] * 2
    assert {each.layers for each in seen} == {8}
    assert {each.budget_bytes for each in seen} == {problem.budget_bytes // 2}
    assert {each.objective for each in seen} == {"balancedness"}


def test_the_gain_is_a_mean_over_phases():
    phases = (Phase("a", (0, 1, 2, 3)), Phase("b", (4, 5, 6, 7)))
    assert PhaseGain(phases, (0.5, 0.6), (0.54, 0.58)).gain == pytest.approx(0.01)
    assert not PhaseGain(phases, (0.5, 0.6), (0.53, 0.58)).pays


def test_every_step_has_the_name_of_its_phase():
    found = PhaseGain((Phase("a", (0, 2, 5, 6)), Phase("b", (1, 3, 4, 7))), (0.5, 0.6), (0.5, 0.6))
    assert found.name_S == ("a", "b", "a", "b", "b", "a", "a", "b")


def test_looking_for_phases_is_cheap():
    counts_SLE = steady_loads(steps=12, layers=58, experts=256)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert find_phases(counts_SLE) == ()
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5, "a few milliseconds, unless the machine is busy"


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
@pytest.mark.parametrize("path", sorted(TRACES.glob("*.npz")), ids=lambda path: path.stem)
def test_recorded_traces_are_single_phases(path):
    with np.load(path) as trace:
        names = tuple(map(str, trace["step_names"])) if "step_names" in trace else ()
        assert find_phases(trace["counts"], names) == ()
