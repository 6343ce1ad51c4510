import numpy as np
import pytest

from craftc.solvers.planners.craft import CraftPlanner
from craftc.solvers.planners.eplb import eplb_placements_without_duplicates
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import placements_of, replay
from craftc.solvers.search.effort import EFFORTS
from craftc.topology import Topology
from tests.places import TRACES
from tests.solvers.brute_force import best_balancedness

PLANNER = StepwisePlanner()


def workloads(seed, steps=6, layers=4, experts=32, gpus=8, replicas_per_gpu=1, tokens=20_000):
    """Workloads that share an expert popularity and differ in topic."""
    rng = np.random.default_rng(seed)
    popularity_LE = rng.normal(0, 1, (layers, experts)) * rng.uniform(0.1, 1, (layers, 1))
    topic_TLE = np.exp(popularity_LE + rng.normal(0, 0.5, (3, layers, experts)))
    mix_ST = rng.dirichlet([0.5] * 3, steps)
    rate_SLE = np.einsum("st,tle->sle", mix_ST, topic_TLE)
    counts_SLE = rng.poisson(rate_SLE / rate_SLE.sum(axis=2, keepdims=True) * tokens)
    return PlanningProblem(counts_SLE, Topology(gpus), (1,) * layers, replicas_per_gpu * gpus)


def plan(problem, planner=PLANNER):
    curves = planner.estimate(problem)
    allocation = planner.allocate(problem, curves)
    return curves, allocation, planner.place(problem, allocation.replicas_L)


def with_budget(problem, budget_bytes):
    return PlanningProblem(problem.counts_SLE, problem.topology, problem.expert_bytes_L, budget_bytes)


def reached(problem, placements):
    return float(replay(problem.counts_SLE, placements).mean())


def test_finds_the_optimum_of_tiny_layers():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        experts, gpus, steps = (int(n) for n in rng.integers((2, 2, 1), (7, 4, 5)))
        replicas = int(rng.integers(0, min(3, experts * (gpus - 1)) + 1))
        rate_SE = rng.lognormal(0, 1, experts) * rng.lognormal(0, 0.5, (steps, experts)) * 50
        problem = PlanningProblem(rng.poisson(rate_SE)[:, None] + 1, Topology(gpus), (1,), replicas)
        placements = PLANNER.place(problem, (replicas,))
        optimum, _ = best_balancedness(problem.counts_SLE[:, 0], gpus, replicas)
        found.append(reached(problem, placements) >= optimum - 1e-9)
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_craft_and_eplb_at_the_same_counts(seed):
    problem = workloads(seed)
    for replicas in (0, 3, 8):
        ours_L = replay(problem.counts_SLE, PLANNER.place(problem, (replicas,) * 4)).mean(axis=0)
        craft_L = replay(problem.counts_SLE, CraftPlanner().place(problem, (replicas,) * 4)).mean(axis=0)
        assert (ours_L >= craft_L - 1e-12).all()
    load_LE = problem.counts_SLE.sum(axis=0)
    eplb = placements_of(eplb_placements_without_duplicates(load_LE, 8, problem.topology))
    assert (ours_L >= replay(problem.counts_SLE, eplb).mean(axis=0) - 1e-12).all()


@pytest.mark.parametrize("seed", range(3))
def test_beats_craft_on_steps_it_has_not_seen(seed):
    problem = workloads(seed, steps=12, layers=6, experts=64, gpus=16, replicas_per_gpu=2)
    seen = PlanningProblem(problem.counts_SLE[0::2], problem.topology, problem.expert_bytes_L, problem.budget_bytes)
    unseen_SLE = problem.counts_SLE[1::2]
    ours, craft = (plan(seen, planner)[2] for planner in (PLANNER, CraftPlanner()))
    assert replay(unseen_SLE, ours).mean() > replay(unseen_SLE, craft).mean() + 0.02


def test_more_budget_is_never_worse():
    problem = workloads(4)
    values = [reached(problem, plan(with_budget(problem, budget))[2]) for budget in (0, 3, 8, 24)]
    assert values == sorted(values)


@pytest.mark.parametrize("seed", range(2))
def test_more_effort_is_never_worse(seed):
    problem = workloads(seed)
    planners = [StepwisePlanner(effort=EFFORTS[name]) for name in ("low", "medium", "high")]
    values = [reached(problem, plan(problem, planner)[2]) for planner in planners]
    assert values == sorted(values)


def test_curves_foretell_the_plan():
    problem = workloads(5, layers=8)
    curves, allocation, placements = plan(problem)
    told_L = [
        curves.balancedness_LC[layer, curves.candidates_C.index(r)] for layer, r in enumerate(allocation.replicas_L)
    ]
    reached_L = replay(problem.counts_SLE, placements).mean(axis=0)
    assert (reached_L >= np.array(told_L) - 1e-12).all()
    assert np.abs(reached_L - told_L).mean() <= 0.01


def test_thousands_of_steps_are_judged_on_all():
    problem = workloads(6, steps=700, layers=2, tokens=3000)
    curves, _, _ = plan(problem)
    alone = PLANNER.place(problem, (0, 0))
    told = curves.balancedness_LC[:, 0].mean()
    assert told == pytest.approx(reached(problem, alone), abs=0.01)
    assert reached(problem, alone) >= reached(problem, CraftPlanner().place(problem, (0, 0)))


@pytest.mark.skipif(not TRACES.exists(), reason="needs ../shared/traces")
@pytest.mark.parametrize(("replicas_per_gpu", "reach"), [(0, 0.87), (8, 0.90)])
def test_reaches_its_figures_on_unseen_decode_steps(replicas_per_gpu, reach):
    counts_SLE = np.load(TRACES / "gpt-oss-20b-decode.npz")["counts"].astype(np.int64)
    blocks = len(counts_SLE) // 16
    summed_SLE = counts_SLE[: blocks * 16].reshape(blocks, 16, *counts_SLE.shape[1:]).sum(axis=1)
    summed_SLE = summed_SLE[np.linspace(0, blocks - 1, 120).round().astype(int)]
    problem = PlanningProblem(summed_SLE[0::2], Topology(8), (1,) * 24, 8 * replicas_per_gpu)
    assert replay(summed_SLE[1::2], plan(problem)[2]).mean() >= reach
