"""Expert groups stay on their node, and the plan beats EPLB's hierarchical mode with as many replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput, Unsupported
from craftc.solvers.planners.eplb import eplb_placements_without_duplicates, uniform_replicas
from craftc.solvers.planners.grouped import GroupedPlanner
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.planners.stepwise import StepwisePlanner
from craftc.solvers.problem import PlanningProblem
from craftc.solvers.replay import placements_of, replay
from craftc.solvers.search.effort import EFFORTS
from craftc.solvers.verifier import PlacedLayer, group_violations, violations
from craftc.topology import Topology
from tests.places import TRACES


def problem_of(seed, steps=6, layers=3, experts=32, topology=Topology(8, 2), groups=4, budget=320, sizes=(10,)):
    rng = np.random.default_rng(seed)
    popularity_LE = rng.lognormal(0, 1.2, (layers, experts))
    counts_SLE = (popularity_LE * rng.lognormal(0, 0.4, (steps, layers, experts)) * 50).astype(np.int64)
    expert_bytes_L = tuple(sizes[layer % len(sizes)] for layer in range(layers))
    return PlanningProblem(counts_SLE, topology, expert_bytes_L, budget, groups=groups)


def plan(problem, name="craftc"):
    planner = planner_for(name, problem)
    curves = planner.estimate(problem)
    allocation = planner.allocate(problem, curves)
    return curves, allocation.replicas_L, planner.place(problem, allocation.replicas_L)


def check(problem, replicas_L, placements):
    placed = [
        PlacedLayer(str(layer), problem.experts, size, replicas, placement)
        for layer, (size, replicas, placement) in enumerate(
            zip(problem.expert_bytes_L, replicas_L, placements, strict=True)
        )
    ]
    assert violations(placed, problem.topology.gpus, problem.budget_bytes) == ()
    assert group_violations(placed, problem.topology, problem.groups) == ()


def balancedness(problem, placements):
    return float(replay(problem.counts_SLE, placements).mean())


@pytest.mark.parametrize(
    "problem",
    [
        problem_of(0),
        problem_of(1, topology=Topology(8, 4), groups=8),
        problem_of(2, topology=Topology(4, 4), groups=4),
        problem_of(3, experts=12, topology=Topology(16, 2), groups=2),
        problem_of(4, experts=30, topology=Topology(8, 2), groups=6, sizes=(10, 7)),
        problem_of(5, steps=1, layers=1),
        problem_of(6, budget=0),
    ],
)
def test_groups_stay_on_their_node(problem):
    curves, replicas_L, placements = plan(problem)
    check(problem, replicas_L, placements)
    believed = np.mean(
        [np.interp(r, curves.candidates_C, c) for r, c in zip(replicas_L, curves.balancedness_LC, strict=True)]
    )
    assert balancedness(problem, placements) == pytest.approx(believed, abs=0.03)
    assert plan(problem)[2] == placements


@settings(deadline=None, max_examples=10)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 200),
)
def test_random_problems(seed, topology, shape, budget):
    nodes, per_node = topology
    groups, size = nodes * shape[0], shape[1]
    most = groups * size * (per_node - 1)
    if groups * size < nodes * per_node:
        budget = max(budget, 2 * 10 * nodes * per_node)
    if most == 0 and groups * size < nodes * per_node:
        return
    problem = problem_of(
        seed, layers=2, experts=groups * size, topology=Topology(nodes * per_node, nodes), groups=groups, budget=budget
    )
    _, replicas_L, placements = plan(problem)
    check(problem, replicas_L, placements)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("topology", "groups"), [(Topology(8, 2), 4), (Topology(8, 4), 4), (Topology(16, 4), 8)])
def test_better_than_hierarchical_eplb_with_as_many_replicas(seed, topology, groups):
    problem = problem_of(seed, topology=topology, groups=groups)
    replicas = uniform_replicas(problem.experts, topology)
    theirs = placements_of(
        eplb_placements_without_duplicates(problem.counts_SLE.sum(axis=0), replicas, topology, groups)
    )
    ours = planner_for("craftc", problem).place(problem, (replicas,) * problem.layers)
    assert balancedness(problem, ours) > balancedness(problem, theirs)


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs ../shared/traces")
def test_better_than_hierarchical_eplb_on_steps_it_has_not_seen():
    with np.load(TRACES / "gpt-oss-20b-domains.npz") as trace:
        counts_SLE = trace["counts"][:, ::4]
    topology, groups = Topology(8, 2), 8
    seen = PlanningProblem(counts_SLE[::2], topology, (1,) * counts_SLE.shape[1], 10**6, groups=groups)
    replicas = uniform_replicas(32, topology)
    theirs = placements_of(eplb_placements_without_duplicates(seen.counts_SLE.sum(axis=0), replicas, topology, groups))
    ours = planner_for("craftc", seen).place(seen, (replicas,) * seen.layers)
    unseen_SLE = counts_SLE[1::2]
    assert replay(unseen_SLE, ours).mean() > replay(unseen_SLE, theirs).mean() + 0.05


def test_uniform_replicas_keep_groups_too():
    problem = problem_of(0, budget=500)
    _, replicas_L, placements = plan(problem, "craftc-uniform")
    assert len(set(replicas_L)) == 1
    check(problem, replicas_L, placements)


def test_eplb_is_hierarchical():
    problem = problem_of(0, budget=500)
    _, replicas_L, placements = plan(problem, "eplb")
    check(problem, replicas_L, placements)


def test_planners_without_groups_say_so():
    with pytest.raises(Unsupported, match="planner craft does not keep expert groups on nodes: choose eplb or craftc"):
        planner_for("craft", problem_of(0))
    assert planner_for("craft", problem_of(0, topology=Topology(8))).name == "craft"


@pytest.mark.parametrize(
    ("topology", "groups", "message"),
    [(Topology(8, 2), 5, "32 experts do not divide"), (Topology(8, 2), 0, "0 groups"), (Topology(8, 8), 4, "8 nodes")],
)
def test_groups_that_do_not_fit(topology, groups, message):
    with pytest.raises(BadInput, match=message):
        problem_of(0, topology=topology, groups=groups)


def test_the_verifier_names_the_group_and_its_nodes():
    layer = PlacedLayer("x", 4, 1, 0, ((0,), (2,), (1,), (3,)))
    assert group_violations([layer], Topology(4, 2), 2) == (
        "layer x: group 0 has copies on nodes 0, 1, not on one",
        "layer x: group 1 has copies on nodes 0, 1, not on one",
    )
    assert group_violations([layer], Topology(4, 2), 1) == ()
    assert "do not divide into 3" in group_violations([layer], Topology(4, 2), 3)[0]
    assert "at least 1" in group_violations([layer], Topology(4, 2), 0)[0]


def test_more_effort_is_never_worse():
    problem = problem_of(7)
    low, medium, high = (
        GroupedPlanner(StepwisePlanner(effort=EFFORTS[name])).estimate(problem) for name in ("low", "medium", "high")
    )
    assert (medium.balancedness_LC >= low.balancedness_LC - 1e-12).all()
    shared = [high.candidates_C.index(count) for count in medium.candidates_C]
    assert (high.balancedness_LC[:, shared] >= medium.balancedness_LC - 1e-12).all()
