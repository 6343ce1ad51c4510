"""On its own loads, a plan is never below what a baseline, or its uniform form, does with the same budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import craftc
from craftc.errors import CraftcError

ROUNDING = 1e-9


@st.composite
def problems(draw):
    """Loads, topology and budget of a small planning run: even and uneven, more GPUs than experts and fewer."""
    steps, layers = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    experts, per_node, nodes = draw(st.integers(1, 20)), draw(st.integers(1, 6)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew, drift = draw(st.floats(0, 2)), draw(st.floats(0, 1.5))
    popular_LE = rng.lognormal(0, skew, (layers, experts))
    counts_SLE = rng.poisson(popular_LE * rng.lognormal(0, drift, (steps, layers, experts)) * 50)
    counts_SLE[..., rng.random(experts) < draw(st.floats(0, 0.8))] = 0
    return counts_SLE, craftc.Topology(per_node * nodes, nodes), f"{draw(st.integers(0, 24))}replicas/gpu"


# A single layer, of which the curve misses 0.04 at a uniform count.
MISSED = np.array(
    [
        [[3319, 106, 239, 3, 156, 6, 106, 1696, 305, 9, 1314, 737, 15, 28, 74, 116, 12, 17]],
        [[127, 52, 823, 16, 30, 4, 98, 13, 46, 26, 423, 923, 10, 43, 780, 168, 27, 28]],
        [[354, 9, 158, 10, 227, 44, 78, 206, 183, 10, 130, 3835, 5, 104, 227, 89, 4, 55]],
    ]
)


@settings(max_examples=60, deadline=None)
@given(problems())
@example((MISSED, craftc.Topology(12, 2), "6replicas/gpu"))
def test_never_below_a_baseline_or_the_uniform_form(problem):
    counts_SLE, topology, budget = problem
    assume(counts_SLE.sum() > 0)
    loads = craftc.LoadProfile.from_counts(counts_SLE)

    def planned(**options):
        return craftc.plan(
            loads, topology, budget, expert_bytes=10, options=craftc.PlanningOptions(cross_validate=False, **options)
        )

    try:
        plan = planned()
    except CraftcError:  # too few experts for the GPUs
        return
    ours = plan.estimate.balancedness
    for row in plan.estimate.planners:
        if row.bytes_per_gpu * topology.gpus <= plan.budget.bytes:
            assert ours >= row.balancedness - ROUNDING, row
    try:
        uniform = planned(planner="craftc-uniform")
    except CraftcError:
        return
    assert ours >= uniform.estimate.balancedness - ROUNDING


@pytest.mark.parametrize(
    ("experts", "gpus", "hot", "budget", "least"),
    [(256, 16, 16, "16replicas/gpu", 0.8), (256, 16, 16, "64replicas/gpu", 0.999), (64, 8, 4, "16replicas/gpu", 0.999)],
)
def test_as_many_replicas_as_pay_are_bought(experts, gpus, hot, budget, least):
    """Only some experts are used, each by one GPU: full replication of these balances everything."""
    rng = np.random.default_rng(0)
    counts_SLE = np.zeros((6, 2, experts), dtype=np.int64)
    for layer in range(2):
        counts_SLE[:, layer, :hot] = [rng.multinomial(40_000, rng.dirichlet(np.ones(hot))) for _ in range(6)]
    loads = craftc.LoadProfile.from_counts(counts_SLE)
    options = craftc.PlanningOptions(cross_validate=False)
    estimate = craftc.plan(loads, craftc.Topology(gpus), budget, expert_bytes=10, options=options).estimate
    assert estimate is not None
    assert estimate.balancedness >= least
