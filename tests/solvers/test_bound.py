"""The bound is never below the true optimum, and tight where it can be."""

import numpy as np
import pytest

from craftc.solvers import bound as bound_module
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import replay
from craftc.topology import Topology
from tests.solvers.brute_force import best_balancedness


@pytest.mark.parametrize("seed", range(60))
def test_never_below_the_true_optimum(seed):
    rng = np.random.default_rng(seed)
    gpus = int(rng.integers(2, 5))
    experts = int(rng.integers(1, 6 if gpus < 4 else 4))
    replicas = int(rng.integers(0, min(5, experts * (gpus - 1)) + 1))
    counts_SE = (rng.lognormal(0, 1.5, (int(rng.integers(1, 5)), experts)) * 10).astype(int)
    counts_SE[0, 0] += 1
    best, _ = best_balancedness(counts_SE, gpus, replicas)
    bound = balancedness_bounds(counts_SE[:, None], [replicas], gpus)[0]
    assert best <= bound <= 1.0


def test_tight_for_one_hot_expert():
    counts_SLE = np.array([[[90, 5, 5, 0]], [[80, 10, 5, 5]]])
    # 4 GPUs: the hot expert alone has 90% and 80% of the load, a GPU's mean is 25%.
    assert balancedness_bounds(counts_SLE, [0], 4)[0] == pytest.approx((25 / 90 + 25 / 80) / 2)
    # One replica can only go to it.
    assert balancedness_bounds(counts_SLE, [1], 4)[0] == pytest.approx((25 / 45 + 25 / 40) / 2)
    assert balancedness_bounds(counts_SLE, [3], 4)[0] == 1.0


def test_copies_are_shared_by_all_steps():
    # Each step alone could be split to 2/3 by giving its hot expert the replica, but only one of them gets it.
    counts_SLE = np.array([[[9, 0, 0]], [[0, 9, 0]]])
    assert balancedness_bounds(counts_SLE, [1], 3)[0] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_experts_that_must_meet_on_a_gpu():
    # 3 equal experts on 2 GPUs: two of them meet.
    assert balancedness_bounds(np.array([[[4, 4, 4]]]), [0], 2)[0] == pytest.approx(6 / 8)


def test_copies_that_must_meet_on_a_gpu():
    # 5 equal experts and a replica on 4 GPUs: copies 4 4 4 4 2 2, some two meet as 4 + 2, the mean is 5.
    counts_SE = np.full((1, 5), 4)
    assert best_balancedness(counts_SE, 4, 1)[0] == pytest.approx(5 / 6)
    assert balancedness_bounds(counts_SE[:, None], [1], 4)[0] == pytest.approx(5 / 6)


def test_a_step_without_tokens_counts_one():
    assert balancedness_bounds(np.array([[[8, 0]], [[0, 0]]]), [0], 2)[0] == pytest.approx((0.5 + 1) / 2)


def test_many_steps_are_bounded_from_some_of_them(monkeypatch):
    rng = np.random.default_rng(2)
    counts_SLE = (rng.lognormal(0, 0.3, (400, 2, 24)) * np.exp(rng.normal(0, 1.5, (1, 2, 24))) * 100).astype(int)
    exact_L = balancedness_bounds(counts_SLE, [6, 12], 16)
    assert (exact_L < 0.99).all()
    monkeypatch.setattr(bound_module, "_LP_PAIRS", 200)
    extended_L = balancedness_bounds(counts_SLE, [6, 12], 16)
    assert (extended_L >= exact_L - 1e-9).all()
    assert (extended_L <= exact_L + 0.05).all(), (extended_L, exact_L)
    problem = PlanningProblem(counts_SLE, Topology(16, 2), (1, 1), 18)
    reached_L = replay(counts_SLE, CraftPlanner().place(problem, (6, 12))).mean(axis=0)
    assert (reached_L <= exact_L).all()


def test_more_replicas_never_lower_the_bound():
    counts_SLE = (np.random.default_rng(5).lognormal(0, 1.5, (6, 1, 16)) * 100).astype(int)
    bounds = [balancedness_bounds(counts_SLE, [replicas], 8)[0] for replicas in range(1, 40)]
    assert np.diff(bounds).min() >= -1e-9
