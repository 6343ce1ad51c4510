"""Layers with different numbers of experts: every planner, against the verifier, the bound and brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Infeasible, Unsupported
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.cross_validation import deal_steps, retained_curves, seen_and_unseen
from craftc.solvers.objectives import replay_and_score
from craftc.solvers.planners.contiguous import contiguous_placements
from craftc.solvers.planners.registry import PLANNERS, planner_for
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import placement_array, replay
from craftc.solvers.verifier import PlacedLayer, violations
from craftc.topology import Topology
from tests.solvers.brute_force import best_balancedness


def problem_of(experts_L, gpus=2, replicas=4, nodes=1, steps=4, sizes=(10,), seed=0, **options):
    rng = np.random.default_rng(seed)
    shape = (len(experts_L), max(experts_L))
    counts_SLE = (rng.lognormal(0, 1.2, shape) * rng.lognormal(0, 0.4, (steps, *shape)) * 50).astype(np.int64) + 1
    counts_SLE[:, np.arange(shape[1]) >= np.array(experts_L)[:, None]] = 0
    sizes_L = tuple(sizes[layer % len(sizes)] for layer in range(shape[0]))
    return PlanningProblem(
        counts_SLE, Topology(gpus, nodes), sizes_L, replicas * max(sizes), layer_experts=experts_L, **options
    )


def planned(name, problem):
    planner = planner_for(name, problem)
    allocation = planner.allocate(problem, planner.estimate(problem))
    return allocation, planner.place(problem, allocation.replicas_L)


def check(problem, replicas_L, placements, budget_bytes):
    spent = sum(count * size for count, size in zip(replicas_L, problem.expert_bytes_L, strict=True))
    placed = [
        PlacedLayer(str(layer), *each)
        for layer, each in enumerate(
            zip(problem.experts_L, problem.expert_bytes_L, replicas_L, placements, strict=True)
        )
    ]
    assert violations(placed, problem.topology.gpus, budget_bytes, spent) == ()
    gpus = problem.topology.gpus
    bound_L = balancedness_bounds(problem.counts_SLE, replicas_L, gpus, problem.layer_experts)
    assert (replay(problem.counts_SLE, placements).mean(axis=0) <= bound_L).all()


@settings(deadline=None, max_examples=40)
@given(
    experts_L=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    shape=st.sampled_from([(1, 1), (2, 1), (4, 2), (5, 1), (6, 3)]),
    replicas=st.integers(0, 40),
    sizes=st.sampled_from([(10,), (10, 7, 23)]),
    name=st.sampled_from([*PLANNERS]),
    seed=st.integers(0, 99),
)
def test_every_plan_is_sound(experts_L, shape, replicas, sizes, name, seed):
    gpus, nodes = shape
    problem = problem_of(experts_L, gpus, replicas, nodes, 3, sizes, seed, effort="low")
    try:
        allocation, placements = planned(name, problem)
    except Infeasible:
        assert name == "eplb"
        return
    check(problem, allocation.replicas_L, placements, problem.budget_bytes)
    check(problem, (0,) * problem.layers, contiguous_placements(problem), 0)


@pytest.mark.parametrize("experts_L", [(2, 4), (4, 2, 3), (5, 1, 3)])
@pytest.mark.parametrize("replicas", [0, 1, 2, 3])
@pytest.mark.parametrize("objective", ["balancedness", "step-time"])
def test_tiny_plans_are_the_best_there_are(experts_L, replicas, objective):
    problem = problem_of(experts_L, 2, replicas, steps=1, seed=replicas, objective=objective)
    _, placements = planned("craftc", problem)
    room_L = [range(min(experts, replicas) + 1) for experts in experts_L]
    tokens_L = problem.counts_SLE.sum(axis=(0, 2))

    def worth(balancedness_L):
        if objective == "balancedness":
            return sum(balancedness_L)
        return -sum(tokens / reached for tokens, reached in zip(tokens_L, balancedness_L, strict=True))

    best = max(
        worth(
            [
                best_balancedness(problem.counts_SLE[:, layer, :experts], 2, count)[0]
                for layer, (experts, count) in enumerate(zip(experts_L, counts, strict=True))
            ]
        )
        for counts in itertools.product(*room_L)
        if sum(counts) <= replicas
    )
    assert worth(replay(problem.counts_SLE, placements).mean(axis=0)) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("name", ["craft", "craftc"])
def test_another_layer_changes_nothing_but_the_budget_that_is_left(name):
    problem = problem_of((6, 4, 6), gpus=4, replicas=0)
    alone = problem.on_layers(np.array([0, 2]))
    assert alone.layer_experts is None
    assert alone.experts == 6
    both, without = (replay(each.counts_SLE, planned(name, each)[1]).mean(axis=0) for each in (problem, alone))
    assert both[[0, 2]].tolist() == without.tolist()


def test_scores_of_curves_are_those_of_the_whole_problem():
    problem = problem_of((3, 5, 3), objective="step-time", step_weight_S=np.array([1.0, 2.0, 1.0, 3.0]))
    planner = planner_for("craftc", problem)
    placed = placement_array(planner.place(problem, (0, 0, 0)))
    _, score_L = replay_and_score(problem, np.arange(3), placed)
    assert planner.estimate(problem).value_LC[:, 0] == pytest.approx(score_L)


def test_a_layer_has_no_more_replicas_than_there_is_room_for():
    problem = problem_of((1, 6), gpus=3, replicas=50)
    allocation, _ = planned("craftc", problem)
    assert allocation.replicas_L[0] <= 2
    assert allocation.replicas_L[1] > 2


def test_eplb_adds_as_many_slots_to_every_gpu_in_all_layers():
    problem = problem_of((4, 6, 5), gpus=4, replicas=2 + 3 + 12)
    assert planned("eplb", problem)[0].replicas_L == (4, 6, 7)
    with pytest.raises(Infeasible, match="5 replicas fill equal slots in all layers, 50 bytes; the budget is 40 bytes"):
        planned("eplb", replace(problem, budget_bytes=40))


def test_replica_counts_are_judged_on_steps_left_out():
    problem = problem_of((4, 6, 4), steps=8)
    planner = planner_for("craftc", problem)
    own, fold_S = planner.estimate(problem), deal_steps(8, 2)
    retained = retained_curves(problem, planner, own, fold_S)
    assert retained.candidates_C == own.candidates_C
    found = seen_and_unseen(problem, planner, (1, 2, 1), fold_S)
    assert ((found.unseen_FL > 0) & (found.unseen_FL <= 1)).all()


def test_what_needs_layers_that_are_alike_refuses_others():
    problem = problem_of((4, 6))
    with pytest.raises(Unsupported, match="uniform plan: layers have 4 to 6 experts"):
        planner_for("craftc-uniform", problem)
    with pytest.raises(Unsupported, match="expert groups: layers have 4 to 6 experts"):
        replace(problem, groups=2)
    with pytest.raises(Unsupported, match="layers have 4 to 6 experts: this works only"):
        PLANNERS["craft"].estimate(problem)


@pytest.mark.parametrize(
    ("layer_experts", "message"),
    [
        ((4,), "1 numbers of experts for 2 layers"),
        ((4, 5), "layers have 4 to 5 experts, counts are of 6"),
        ((0, 6), "layers have 0 to 6 experts, counts are of 6"),
        ((3, 6), "step 0 has tokens for expert 3 of layer 0, which has only 3 experts"),
    ],
)
def test_wrong_numbers_of_experts_are_refused(layer_experts, message):
    with pytest.raises(BadInput, match=message):
        replace(problem_of((4, 6)), layer_experts=layer_experts)
