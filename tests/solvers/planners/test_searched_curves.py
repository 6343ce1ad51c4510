import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.planners.searched_curves import replica_candidates, searched_curves
from craftc.solvers.problem import PlanningProblem
from craftc.topology import Topology


def problem_of(experts=32, gpus=8, layers=2, budget=10**6, sizes=None):
    counts_SLE = np.ones((3, layers, experts), dtype=np.int64)
    return PlanningProblem(counts_SLE, Topology(gpus), sizes or (1,) * layers, budget)


@pytest.mark.parametrize(
    ("experts", "gpus", "budget", "expected"),
    [
        (256, 64, 64, (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)),
        (8, 8, 10**6, (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 56)),
        (8, 8, 5, (0, 1, 2, 3, 4, 5)),
        (1, 3, 9, (0, 1, 2)),
        (5, 1, 9, (0,)),
        (32, 8, 0, (0,)),
    ],
)
def test_candidates(experts, gpus, budget, expected):
    assert replica_candidates(problem_of(experts, gpus, layers=501, budget=budget)) == expected


@pytest.mark.parametrize(("layers", "most"), [(1, 64), (15, 64), (31, 32), (500, 2)])
def test_every_count_is_a_candidate_in_small_problems(layers, most):
    assert replica_candidates(problem_of(64, 64, layers, budget=most)) == tuple(range(most + 1))
    beyond = replica_candidates(problem_of(64, 64, layers + 1000 // most, budget=most))
    assert len(beyond) < most + 1 or most == 2


def test_a_small_budget_is_spent_to_the_last_replica():
    counts_SLE = np.random.default_rng(0).poisson(99 * np.exp(np.random.default_rng(1).normal(size=(6, 2, 3))))
    problem = PlanningProblem(counts_SLE + 1, Topology(8), (1, 1), budget_bytes=40)
    planner = planner_for("craftc", problem)
    assert sum(planner.allocate(problem, planner.estimate(problem)).replicas_L) == 40


def test_candidates_make_slots_even_where_experts_do_not_divide():
    counts = replica_candidates(problem_of(60, 8))
    assert {4, 12, 20, 28, 36} <= set(counts)
    assert max(counts) == 60 * 7


def test_candidates_keep_to_the_gpus_of_a_node():
    assert max(replica_candidates(problem_of(8, 8), most_copies=2)) == 8


def test_counts_that_cannot_pay_are_not_searched():
    problem = problem_of(64, 16, layers=6, budget=18)
    asked: list = []

    def judge(layer_B, replicas_B):
        asked.extend(zip(layer_B.tolist(), replicas_B.tolist(), strict=True))
        balancedness_B = np.where(layer_B == 0, 0.999, np.minimum(1, 0.4 + 0.02 * replicas_B))
        return balancedness_B, balancedness_B

    curves = searched_curves(problem, replica_candidates(problem), judge)
    counts_0 = {count for layer, count in asked if layer == 0}
    counts_1 = {count for layer, count in asked if layer == 1}
    assert max(counts_0) == 4, "a balanced layer gains nothing"
    assert max(counts_1) == 18
    assert curves.balancedness_LC[0].tolist() == [0.999] * len(curves.candidates_C)
    assert (np.diff(curves.balancedness_LC[1]) >= 0).all()


def test_everything_is_searched_where_the_budget_is_not_scarce():
    problem = problem_of(8, 4, layers=1)
    asked: list = []

    def judge(layer_B, replicas_B):
        asked.extend(replicas_B.tolist())
        return np.full(len(layer_B), 0.5), np.full(len(layer_B), 0.5)

    searched_curves(problem, replica_candidates(problem), judge)
    assert tuple(asked) == replica_candidates(problem)


def test_more_gpus_than_can_be_planned_for_are_refused():
    with pytest.raises(BadInput, match="65536 GPUs: at most 4096 are planned for"):
        problem_of(256, 65_536)
