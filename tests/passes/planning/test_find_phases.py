"""What planning knows of phases among its steps."""

import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.passes.base import run_checked
from craftc.passes.pipelines import phases_found, planned
from craftc.passes.planning.find_phases import FindPhases
from tests.passes.planning.compilations import compilation, random_loads
from tests.solvers.loads_in_phases import loads_in_phases
from tests.solvers.loads_that_drift import steady_loads

NAMES = tuple(f"{name}_{step}" for step in range(8) for name in ("prefill", "decode"))


def in_phases(counts_SLE, planner="craftc", names=(), **options):
    loads = LoadProfile.from_counts(counts_SLE, top_k=(2,) * 4, step_names=names)
    return compilation(planner, loads, (100,) * 4, **options)


def found(*arguments, **options):
    return run_checked(FindPhases(), in_phases(*arguments, **options)).phases


@pytest.mark.parametrize("planner", ["craftc", "craftc-uniform", "craft", "eplb"])
def test_every_planner_has_its_gain(planner: str):
    phases = found(loads_in_phases((0, 1) * 8), planner, budget="16replicas/gpu")
    assert [phase.name for phase in phases.phases] == ["phase-1", "phase-2"]
    assert phases.gain > 0


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "step-time", "tokens_per_slot": 2.0},
        {"objective": "worst-workload"},
        {"expert_groups": 4},
        {"budget": "0B"},
        {"budget": "1replica/gpu"},
        {"budget": "auto"},
    ],
    ids=str,
)
def test_any_objective_and_budget(options):
    phases = found(loads_in_phases((0, 1) * 8), names=NAMES, **options)
    assert [phase.name for phase in phases.phases] == ["prefill", "decode"]
    assert all(0 < value <= 1 for value in (*phases.joint_P, *phases.own_P))


def test_nothing_is_planned_if_steps_are_alike_or_few(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("craftc.passes.planning.find_phases.phase_gain", None)
    assert found(steady_loads(steps=16)) is None
    assert found(loads_in_phases((0, 1) * 3)) is None


def test_a_phase_is_planned_from_its_own_steps():
    start = in_phases(loads_in_phases((0, 1) * 8), names=NAMES)
    request, loads, layers = start.request, start.loads, start.layers
    prefill, decode = phases_found(request, loads, layers).phases
    done = planned(request, loads, layers, phase=decode)
    assert done.loads.step_names == NAMES[1::2]
    assert (done.loads.counts_SLE == loads.counts_SLE[1::2]).all()
    assert not done.knows("phases"), "no phases within a phase"
    other = planned(request, loads, layers, phase=prefill)
    assert other.plan.layers != done.plan.layers
    both = planned(request, loads, layers).phases
    assert both
    assert [phase.name for phase in both.phases] == ["prefill", "decode"]


@pytest.mark.parametrize("names", [(), NAMES], ids=["unnamed", "named"])
def test_phases_in_turn_do_not_look_like_over_fitting(names: tuple[str, ...]):
    """Dealt in turn, each phase would be planned by the other alone."""
    start = in_phases(loads_in_phases((0, 1) * 8, spread=0.05), names=names, budget="16replicas/gpu")
    plan = planned(start.request, start.loads, start.layers).plan
    assert plan.warnings == ()
    assert plan.estimate
    assert plan.estimate.cross_validation
    assert plan.estimate.cross_validation.gain_unseen > 0.8 * plan.estimate.cross_validation.gain_seen


def test_without_phases_the_answer_says_why():
    start = compilation(loads=random_loads(), sizes=(100,) * 3)
    with pytest.raises(BadInput, match="no phases in 6 steps"):
        phases_found(start.request, start.loads, start.layers)


def test_plans_in_use_have_no_phases():
    start = compilation()
    plan = planned(start.request, start.loads, start.layers).plan
    changed = compilation(current_plan=plan)
    assert not planned(changed.request, changed.loads, changed.layers).knows("phases")
    with pytest.raises(BadInput, match="from scratch"):
        phases_found(changed.request, changed.loads, changed.layers)
