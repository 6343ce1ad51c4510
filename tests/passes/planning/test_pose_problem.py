"""A request and what it is about, in numbers."""

import pytest

from craftc.errors import BadInput
from tests.passes.planning.compilations import compilation, random_loads


def test_everything_asked_for_is_in_the_problem():
    loads = random_loads()
    known = compilation(
        loads=loads,
        sizes=(100, 200, 300),
        budget="5000B",
        solver="cbc",
        time_limit_s=3.0,
        expert_groups=4,
        objective="step-time",
        effort="low",
    )
    problem = known.problem
    assert problem.counts_SLE is loads.counts_SLE
    assert (problem.topology.gpus, problem.topology.nodes) == (8, 2)
    assert (problem.expert_bytes_L, problem.budget_bytes) == ((100, 200, 300), 5000)
    assert (problem.solver, problem.time_limit_s, problem.effort) == ("cbc", 3.0, "low")
    assert (problem.groups, problem.objective, problem.step_weight_S) == (4, "step-time", None)


def test_workloads_are_weighed_by_their_steps_so_that_a_step_is_worth_its_balancedness():
    assert compilation(objective="worst-workload").problem.objective == "balancedness"


def test_groups_that_do_not_fit_are_the_users_mistake():
    with pytest.raises(BadInput, match="16 experts do not divide into 5 groups"):
        compilation(expert_groups=5)
