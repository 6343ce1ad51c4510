"""A plan from loads alone: no model, no torch."""

import subprocess
import sys

import pytest

from craftc.plans.verifier import verify_plan
from craftc.solvers.replay import replay
from tests.passes.planning.compilations import planned


@pytest.mark.parametrize("planner", ["craft", "eplb"])
def test_a_plan_from_loads_alone(planner):
    done = planned(planner)
    plan = done.plan
    assert verify_plan(plan) == ()
    assert plan.budget.requested == "4replicas/gpu"
    assert plan.budget.spent_bytes == 100 * plan.replicas <= plan.budget.bytes == 3200
    assert [layer.replicas for layer in plan.layers] == list(done.allocation.replicas_L)
    assert plan.provenance.planner == planner
    assert plan.provenance.loads == f"sha256:{done.loads.sha256}"
    assert plan.provenance.model is None
    assert (plan.provenance.status, plan.provenance.gap) == (
        ("optimal", 0.0) if planner == "craft" else ("heuristic", None)
    )
    reached = replay(done.loads.counts_SLE, [layer.placement for layer in plan.layers])
    assert plan.estimate.balancedness == pytest.approx(reached.mean())


def test_layers_whose_experts_differ_in_size_and_do_not_divide():
    plan = planned("craft", experts=13, sizes=(100, 250, 60), budget="2000B").plan
    assert verify_plan(plan) == ()
    assert 0 < plan.budget.spent_bytes <= 2000


def test_planning_does_not_import_torch():
    code = (
        "import sys; from craftc.passes.planning import estimate_benefit, allocate_replicas, place_replicas; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
